"""The list of failures has a line for each failed image of the manifests. It is written completely or not at all."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from config.locations import StoreUrl
from producer.output.failures import COLUMNS, find_failed, write
from producer.output.run_file import FAILURES_NAME, PlanState, RunConfig, RunFile, State
from tasks.errors import CommandError
from tasks.model import ImageRequest, Outcome, Reason, Status
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store
from tests.unit.conftest import success

HOSTILE = 'http://a.example/<script>alert(1)</script>?token=secret\x1b[2J"\n\u202e'


def failed(key: str, reason: Reason = Reason.HTTP_4XX, status: int | None = 404) -> Outcome:
    """Return the Outcome of a failed image."""
    message = f"the server said {status}"
    return Outcome(key, reason.status, reason, message, http_status=status, attempts=1, finished_at=101.5)


def make_run(
    store: Store, *shards: Sequence[Outcome], urls: Sequence[str] = (), state: State = State.COMPLETE
) -> RunFile:
    """Make a run whose shards have these Outcomes, and whose list has the columns ``url``, ``caption`` and ``day``."""
    record = RunFile("id", "list.txt", store.location, RunConfig(shard_size=2), None, PlanState.COMPLETE)
    record = record.save(store, planned_rows=2 * len(shards), planned_shards=len(shards), state=state)
    names = iter(urls)
    for shard, outcomes in enumerate(shards):
        columns = [{"caption": f"picture {place}", "day": date(2026, 1, 1)} for place in range(len(outcomes))]
        requests = [
            ImageRequest(2 * shard + place, next(names, f"http://a.example/{2 * shard + place}"), columns[place])
            for place in range(len(outcomes))
        ]
        ref = ShardRef("id", shard)
        planned = plan.decode(plan.encode(requests, ref))
        store.create_durably(manifest.name(shard), manifest.encode(planned, outcomes, ref))
    return record


@pytest.fixture(params=["local", "object"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path)
    request.getfixturevalue("object_server")
    return ObjectStore(StoreUrl.parse("s3://bucket/run"))


def test_writes_a_line_for_each_failed_image(any_store: Store) -> None:
    """Each failed image has a line, in the order of the list. It has the list's own columns, and the URL unchanged."""
    dns = failed("00001001", Reason.DNS, None)
    record = make_run(any_store, [success(0), failed("00000001")], [success(2), dns], urls=["http://a", HOSTILE])
    write(record, any_store, 2)
    lines = [json.loads(line) for line in any_store.read(FAILURES_NAME).splitlines()]
    assert [list(line) for line in lines] == [[*COLUMNS, "caption", "day"]] * 2
    assert [(line["key"], line["url"], line["reason"], line["http_status"]) for line in lines] == [
        ("00000001", HOSTILE, "http_4xx", 404),
        ("00001001", "http://a.example/3", "dns", None),
    ]
    assert lines[0]["status"] == Status.FAILED_TO_DOWNLOAD
    assert (lines[0]["error_message"], lines[0]["attempts"]) == ("the server said 404", 1)
    assert (lines[0]["caption"], lines[0]["day"], lines[0]["finished_at"]) == (
        "picture 1",
        "2026-01-01",
        "1970-01-01T00:01:41.500000+00:00",
    )


def test_writes_an_empty_file_if_nothing_failed(any_store: Store) -> None:
    """If no image failed, the file is empty. The caller gives the number 0, so no manifest is read."""
    record = make_run(any_store, [success(0)])
    any_store.replace(FAILURES_NAME, b"the failures before a retry")
    write(record, any_store, 0)
    assert any_store.read(FAILURES_NAME) == b""


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    """The file has the URLs of the list, which may contain passwords."""
    store = LocalStore(tmp_path)
    write(make_run(store, [failed("00000000")]), store, 1)
    assert stat.S_IMODE((tmp_path / FAILURES_NAME).stat().st_mode) == 0o600


def test_keeps_the_old_file_if_a_manifest_is_damaged(any_store: Store) -> None:
    """If the file can't be written completely, it stays as it was."""
    record = make_run(any_store, [failed("00000000")], [failed("00001000")])
    write(record, any_store, 2)
    before = any_store.read(FAILURES_NAME)
    any_store.replace(manifest.name(1), b"damaged")
    with pytest.raises(CommandError, match=r"00001\.parquet is unusable"):
        write(record, any_store, 2)
    assert any_store.read(FAILURES_NAME) == before


def test_selects_reasons(any_store: Store) -> None:
    """Only the failures with the given reasons are found."""
    outcomes = [failed("00000000"), failed("00000001", Reason.DNS, None)]
    found = find_failed(make_run(any_store, outcomes, [failed("00001000", Reason.TIMEOUT, None)]), any_store)
    keys = [key for table in found.rows(["timeout", "dns"]) for key in table["key"].to_pylist()]
    assert keys == ["00000001", "00001000"]


def test_finds_the_failures_of_finished_shards(any_store: Store) -> None:
    """While a run is incomplete, the failures are those of the shards that have a manifest."""
    record = make_run(any_store, [failed("00000000")], [failed("00001000")], state=State.RUNNING)
    any_store.remove(manifest.name(0))
    found = find_failed(record, any_store)
    assert found.shards == [1]
    assert [key for table in found.rows() for key in table["key"].to_pylist()] == ["00001000"]
    any_store.remove(manifest.name(1))
    found = find_failed(record, any_store)
    assert (list(found.rows()), found.columns) == ([], list(COLUMNS))
