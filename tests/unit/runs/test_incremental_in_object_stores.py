"""A run in an object store can be overwritten and extended too."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from config.locations import StoreUrl
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from producer.runs import incremental
from producer.runs.incremental_mode import IncrementalMode
from producer.sources import url_list
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tests.conftest import required_module
from tests.object_server import object_server
from tests.runs import SIZE, make_run
from tests.waiting import wait_for


@pytest.mark.parametrize(
    ("mode", "indexes"), [(IncrementalMode.OVERWRITE, [[0]]), (IncrementalMode.EXTEND, [[0, 1, 2], [3, 4], [6]])]
)
def test_run_in_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: IncrementalMode, indexes: list[list[int]]
) -> None:
    """Only the run's own objects are removed, and new shards are added after the existing ones."""
    required_module("obstore")
    source = tmp_path / "list.txt"
    local = LocalStore(tmp_path)
    make_run(source, local, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    own = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    del own["list.txt"]
    source.write_bytes(b"http://b.example/\n")
    with object_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        objects = server.buckets["bucket"]
        objects.update({f"out/{name}": body for name, body in own.items()})
        objects.update({"out/00000/000000.jpg": b"image", "out/notes.txt": b"mine", "other/00000.parquet": b"mine"})
        with incremental.run_folder(StoreUrl.parse("s3://bucket/out"), None, mode) as store:
            config = RunConfig(shard_size=SIZE)
            wanted = incremental.RunRequest(str(source), url_list.read(str(source)), config)
            prepared = incremental.prepare(wanted, mode, store, None)
            with suppress(KeyError), prepared.start():
                wait_for(lambda: RunFile.load(store).plan is PlanState.COMPLETE)
                raise KeyError
            plans = sorted(store.list_files(plan.FOLDER))
            assert [plan.indexes(plan.decode(store.read(name))) for name in plans] == indexes
    assert ("out/00000/000000.jpg" in objects) is (mode is IncrementalMode.EXTEND)
    assert (objects["out/notes.txt"], objects["other/00000.parquet"]) == (b"mine", b"mine")
