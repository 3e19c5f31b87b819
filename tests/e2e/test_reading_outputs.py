"""Tools for data sets read all images, captions and metadata from each output format of a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from producer.output.run_file import PlanState, RunConfig, RunFile, State, new_id
from tasks.collect import collect
from tasks.model import ImageRequest, Outcome, OutputFormat, OutputOptions, Reason, RunOptions, Status
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.conftest import lacking
from tests.unit.conftest import image, success

_SIZE, _SHARDS = 4, 3
_CAPTIONS = ['a "cat", 🐈\nin two lines', "", None, "the failed one"]
#: For each tool, its format and the lines of code that print the keys, captions and image sizes of all samples.
_SCRIPTS = {
    "webdataset": (
        OutputFormat.WEBDATASET,
        """
import webdataset
samples = webdataset.WebDataset("images/{00000..00002}.tar", shardshuffle=False).decode("pil")
found = [(s["__key__"], s["json"]["caption"], s["jpg"].size) for s in samples]
""",
    ),
    "datasets with tars": (
        OutputFormat.WEBDATASET,
        """
import datasets
samples = datasets.load_dataset("webdataset", data_files="images/*.tar", split="train", cache_dir="cache")
found = [(s["__key__"], s["json"]["caption"], s["jpg"].size) for s in samples]
""",
    ),
    "datasets": (
        OutputFormat.PARQUET,
        """
import datasets
samples = datasets.load_dataset("parquet", data_files="images/*/images.parquet", split="train", cache_dir="cache")
samples = samples.cast_column("image", datasets.Image())
found = [(s["key"], s["caption"], s["image"].size) for s in samples]
""",
    ),
    "pandas": (
        OutputFormat.PARQUET,
        """
import glob, io, pandas
from PIL import Image
rows = pandas.concat(map(pandas.read_parquet, sorted(glob.glob("images/*/images.parquet"))))
rows = rows.astype({"caption": object}).where(rows.notna(), None)
found = [(r.key, r.caption, Image.open(io.BytesIO(r.image)).size) for r in rows.itertuples()]
""",
    ),
    "duckdb": (
        OutputFormat.PARQUET,
        """
import duckdb, io
from PIL import Image
rows = duckdb.sql("SELECT key, caption, image FROM 'images/*/images.parquet' ORDER BY key").fetchall()
found = [(key, caption, Image.open(io.BytesIO(image)).size) for key, caption, image in rows]
""",
    ),
    "pyarrow": (
        OutputFormat.PARQUET,
        """
import glob, io, pyarrow.dataset
from PIL import Image
table = pyarrow.dataset.dataset(sorted(glob.glob("images/*/images.parquet"))).to_table()
found = [(r["key"], r["caption"], Image.open(io.BytesIO(r["image"])).size) for r in table.to_pylist()]
""",
    ),
}


def write_run(store: LocalStore, output: OutputOptions) -> list[tuple[str, str | None, list[int]]]:
    """Write a complete run of captioned images; return the key, caption and size of each saved image."""
    store.root.mkdir()
    run = RunOptions(str(store.root), _SIZE, output=output, run_id=new_id())
    options = RunConfig(shard_size=_SIZE, output=output)
    RunFile(run.run_id, "list.csv", run.out, options, plan=PlanState.COMPLETE, state=State.COMPLETE).create(store)
    expected: list[tuple[str, str | None, list[int]]] = []
    for shard in range(_SHARDS):
        requests = [
            ImageRequest(shard * _SIZE + place, f"http://a.example/{place}", {"caption": caption, "tags": ["a", "b"]})
            for place, caption in enumerate(_CAPTIONS)
        ]
        store.create_durably(plan.name(shard), plan.encode(requests, ShardRef(run.run_id, shard)))
        outcomes: list[Outcome] = []
        for place in range(_SIZE - 1):
            body = image("JPEG", (4 + place, 3 + shard))
            key = success(place, shard, _SIZE).key
            path = f"{shard:05d}/{key}.jpg"
            store.create(path, body)
            outcomes.append(success(place, shard, _SIZE, path=path, bytes=len(body)))
            expected.append((key, _CAPTIONS[place], [4 + place, 3 + shard]))
        failed = success(_SIZE - 1, shard, _SIZE).key
        outcomes.append(Outcome(failed, Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0))
        collect(shard, outcomes, run, store)
    return expected


@pytest.mark.parametrize("tool", _SCRIPTS)
def test_tool_reads_all_images(tmp_path: Path, tool: str) -> None:
    """The tool finds each saved image once, in the order of the list, with its caption."""
    output_format, lines = _SCRIPTS[tool]
    library = tool.partition(" ")[0]
    if find_spec(library) is None:
        lacking(f"{library} is not installed in this environment")
    expected = write_run(LocalStore(tmp_path / "images"), OutputOptions(output_format))
    script = f"{lines}\nimport json\nprint(json.dumps(sorted(found)))"
    # The lines run in a separate process, because some libraries start threads that would affect other tests.
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [tuple(sample) for sample in json.loads(ended.stdout.splitlines()[-1])] == expected
