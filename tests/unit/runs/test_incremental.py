"""In a folder that already has a run, a new run continues, replaces or extends that run, or is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from producer.cli.run_commands import run as run_command
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from producer.runs import incremental
from producer.runs.incremental import RunRequest
from producer.runs.incremental_mode import IncrementalMode
from producer.runs.option_names import LIBRARY_ONLY, differing_options, named_values
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.collect import collect
from tasks.errors import UsageError
from tasks.model import (
    FetchOptions,
    HeaderOptions,
    Outcome,
    OutputFormat,
    OutputOptions,
    Reason,
    RunOptions,
    Sidecar,
    Status,
    image_key,
)
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.runs import RUN_ID, SIZE, make_run
from tests.waiting import wait_for


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the path of the run's list."""
    return tmp_path / "list.txt"


@pytest.fixture
def store(tmp_path: Path, source: Path) -> LocalStore:
    """Return the folder of a complete run."""
    (tmp_path / "out").mkdir()
    store = LocalStore(tmp_path / "out")
    make_run(source, store, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    return store


def request(source: Path | str, config: RunConfig | None = None, given: Collection[str] | None = None) -> RunRequest:
    """Return the request for a run that has the options of the existing run, or other options."""
    config = config or RunConfig(shard_size=SIZE)
    return RunRequest(str(source), url_list.read(str(source), config.source), config, given)


def test_each_field_is_named_like_an_option() -> None:
    """Each field of a run's options has the name of an option of the command, and no two fields have the same name."""
    options = {name for param in run_command.params for name in param.opts}
    names = [name for name, _ in named_values(RunConfig())]
    assert set(names) - options == LIBRARY_ONLY
    assert len(names) == len(set(names))


def test_names_the_differing_options() -> None:
    """The error names the options that differ, but does not show their values, because a header may be a secret."""
    wanted = RunConfig(
        FetchOptions(timeout=3.0, headers=HeaderOptions(extra=(("Cookie", "secret"),))),
        output=OutputOptions(OutputFormat.WEBDATASET),
        source=SourceOptions(header=False),
    )
    assert differing_options(wanted, RunConfig()) == ["--timeout", "--header", "--output-format", "--no-header"]
    assert differing_options(wanted, wanted) == []


def test_same_run_is_continued(store: LocalStore, source: Path, tmp_path: Path) -> None:
    """A run is continued if its list and its options are the same. The list may have another path by now."""
    assert incremental.resume_same(request(source), store).is_done
    moved = source.rename(tmp_path / "moved.txt")
    run = incremental.resume_same(request(moved), store)
    assert (run.is_done, run.source, run.summary().summary.total) == (True, str(moved), 5)


def test_another_list_is_not_skipped(store: LocalStore, source: Path, tmp_path: Path) -> None:
    """Another list, a changed list, and standard input are refused. Nothing in the folder is changed."""
    record = store.read("run.json")
    other = tmp_path / "other.txt"
    other.write_bytes(b"http://b.example/\n")
    source.write_bytes(b"http://b.example/\n")
    for given, why in ((other, f"it is a run of {source}"), (source, "missing or has changed"), ("-", "it is a run")):
        with pytest.raises(UsageError, match="has another list") as caught:
            incremental.resume_same(request(given), store)
        assert why in caught.value.why
    assert store.read("run.json") == record


@pytest.mark.parametrize("given", [None, {"--timeout", "--url-col"}])
def test_other_options_are_refused(store: LocalStore, source: Path, given: set[str] | None) -> None:
    """If an option differs, the run is neither continued nor extended, and the error names the option."""
    wanted = request(source, RunConfig(FetchOptions(timeout=3.0), shard_size=SIZE), given)
    with pytest.raises(UsageError, match="has other options") as caught:
        incremental.resume_same(wanted, store)
    assert caught.value.why == "these differ: --timeout"
    source.write_bytes(b"http://b.example/\n")
    with pytest.raises(UsageError, match="has other options"):
        incremental.prepare(wanted, IncrementalMode.EXTEND, store, None)


def test_extension_takes_its_options_from_the_run(store: LocalStore, source: Path) -> None:
    """If an option is omitted, the run's value is used.

    This does not apply to options that say how to read the list.
    """
    reading = SourceOptions(encoding="latin-1")
    source.write_bytes(b"http://b.example/\n")
    prepared = incremental.prepare(
        request(source, RunConfig(source=reading), given=["--encoding"]), IncrementalMode.EXTEND, store, None
    )
    assert prepared.config == RunConfig(shard_size=SIZE)
    with pytest.raises(KeyError), prepared.start():
        raise KeyError
    assert RunFile.load(store).options == RunConfig(shard_size=SIZE, source=reading)


def test_same_list_does_not_extend(store: LocalStore, source: Path) -> None:
    """A list whose rows are already in the run is refused.

    The list is accepted if an offset selects rows that are not in the run.
    """
    with pytest.raises(UsageError, match="has the rows of this list already"):
        incremental.prepare(request(source), IncrementalMode.EXTEND, store, None)
    offset = RunConfig(shard_size=SIZE, source=SourceOptions(offset=4))
    assert incremental.prepare(request(source, offset), IncrementalMode.EXTEND, store, None)


def test_runs_with_other_file_names(store: LocalStore, source: Path) -> None:
    """Images with names from a template are never mixed with other images.

    Only a complete run shows all of its images.
    """
    named = RunConfig(shard_size=SIZE, output=OutputOptions(path_template="full/{url_sha1}"))
    extension, replacement = IncrementalMode.EXTEND, IncrementalMode.OVERWRITE
    with pytest.raises(UsageError, match="can't be overwritten"):
        incremental.prepare(request(source, named), replacement, store, None)
    record = RunFile.load(store).save(store, options=named)
    with pytest.raises(UsageError, match="can't be extended"):
        incremental.prepare(request(source, named), extension, store, None)
    assert incremental.prepare(request(source), replacement, store, None)
    record.save(store, state=State.INTERRUPTED)
    with pytest.raises(UsageError, match="can't be overwritten") as caught:
        incremental.prepare(request(source), replacement, store, None)
    assert "resume" in caught.value.hint


def test_overwriting_keeps_the_run_until_there_are_workers(store: LocalStore, source: Path) -> None:
    """Nothing is removed while the new run is prepared. When the new run starts, it has replaced the old run."""
    before = RunFile.load(store)
    source.write_bytes(b"http://b.example/\n")
    wanted = request(source, replace(before.options, window=2))
    prepared = incremental.prepare(wanted, IncrementalMode.OVERWRITE, store, None)
    assert RunFile.load(store) == before
    with pytest.raises(KeyError), prepared.start():
        raise KeyError
    found = RunFile.load(store)
    assert (found.options.window, found.id != before.id) == (2, True)
    assert not store.exists("00001.parquet")


@pytest.mark.parametrize("mode", [None, *IncrementalMode])
def test_folder_without_a_run_gets_one(tmp_path: Path, mode: IncrementalMode | None) -> None:
    """In a folder without a run, each mode begins a new run. Leftovers without run.json are refused."""
    source = tmp_path / "list.txt"
    source.write_bytes(b"http://a.example/\n")
    with incremental.run_folder(tmp_path / "out", None, mode) as store:
        with incremental.prepare(request(source), mode, store, None).start():
            wait_for(lambda: RunFile.load(store).plan is PlanState.COMPLETE)
        assert RunFile.load(store).source == str(source)
        store.remove("run.json")
    with (
        pytest.raises(UsageError, match="leftovers"),
        incremental.run_folder(tmp_path / "out", None, mode),
    ):
        raise AssertionError


@pytest.mark.parametrize("pattern", ["list.txt", "*.parquet", "../list.txt"])
def test_list_in_the_folder_is_not_overwritten(tmp_path: Path, store: LocalStore, pattern: str) -> None:
    """A run is not removed if its removal would remove a file of the new list."""
    (tmp_path / "out" / "list.txt").write_text("http://a.example/1\n")
    wanted = RunRequest(str(tmp_path / "out" / pattern), iter([]), RunConfig(shard_size=SIZE))
    if pattern.startswith(".."):
        incremental.prepare(wanted, IncrementalMode.OVERWRITE, store, None)
        return
    with pytest.raises(UsageError, match="can't be overwritten: the URL list, or a part of it, is in that folder"):
        incremental.prepare(wanted, IncrementalMode.OVERWRITE, store, None)
    assert RunFile.is_in(store)


_CAPTIONED = SourceOptions(caption_col="text", columns=("n",))
_CAPTION = SourceOptions(caption_col="text")
_WITH_M = SourceOptions(caption_col="text", columns=("m",))
_LISTS = {
    "no columns": (b'"http://a.example/"', SourceOptions(), None),
    "same columns": (b'{"text": "A cat", "url": "http://a.example/", "n": 1}', _CAPTIONED, None),
    "another order": (b'{"n": 2, "url": "http://a.example/", "text": "A dog"}', _CAPTIONED, None),
    "only the caption": (
        b'{"text": "A cat", "url": "http://a.example/"}',
        SourceOptions(caption_col="text"),
        "caption (string)",
    ),
    "another name": (
        b'{"text": "A", "url": "http://a.example/", "m": 1}',
        _WITH_M,
        "m (int64)",
    ),
    "another type": (b'{"text": "A", "url": "http://a.example/", "n": "x"}', _CAPTIONED, "n (string)"),
}


@pytest.mark.parametrize("first", ["no columns", "same columns"])
@pytest.mark.parametrize("second", _LISTS)
def test_extension_needs_the_same_columns(tmp_path: Path, first: str, second: str) -> None:
    """A run is extended only if all its manifests will have the same columns and types. The error names both.

    Otherwise, a tool that reads all manifests at once would lose a column without an error.
    """
    store = LocalStore(tmp_path / "out")
    old, new = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    old.write_bytes(_LISTS[first][0])
    new.write_bytes(_LISTS[second][0].replace(b"a.example", b"b.example"))
    config = RunConfig(shard_size=SIZE, source=_LISTS[first][1])
    _complete_run(old, store, config)
    wanted = request(new, replace(config, source=_LISTS[second][1]))
    if _column_kinds(first) == _column_kinds(second):
        prepared = incremental.prepare(wanted, IncrementalMode.EXTEND, store, None)
        assert prepared.config == config
        return
    with pytest.raises(UsageError, match="would have other columns") as refused:
        incremental.prepare(wanted, IncrementalMode.EXTEND, store, None)
    assert (_LISTS[second][2] or "url (string)") in refused.value.why
    assert RunFile.load(store).state is State.COMPLETE


def _column_kinds(name: str) -> str:
    return "same columns" if name == "another order" else name


def _complete_run(source: Path, store: LocalStore, config: RunConfig) -> None:
    """Make a complete run of a list with one shard."""
    requests = url_list.read(str(source), config.source)
    record = RunFile(
        RUN_ID, str(source), str(store.root), config, plan=PlanState.COMPLETE, planned_rows=1, planned_shards=1
    )
    store.create_folder()
    replace(record, state=State.COMPLETE, finished_at=1.0).create(store)
    rows = list(requests)
    store.create_durably(plan.name(0), plan.encode(rows, ShardRef(RUN_ID, 0), requests.schema))
    outcomes = [Outcome(image_key(0, SIZE), Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0)]
    collect(0, outcomes, RunOptions(str(store.root), SIZE, run_id=RUN_ID), store)


@pytest.mark.parametrize(
    ("sidecars", "options", "is_missing"),
    [
        ((Sidecar.TXT,), SourceOptions(), True),
        ((Sidecar.JSON, Sidecar.TXT), SourceOptions(columns=("n",)), True),
        ((Sidecar.JSON,), SourceOptions(), False),
        ((Sidecar.TXT,), SourceOptions(caption_col="text"), False),
        ((Sidecar.TXT,), SourceOptions(columns=("caption",)), False),
    ],
)
def test_captions_without_a_column_are_reported(
    tmp_path: Path,
    sidecars: tuple[Sidecar, ...],
    options: SourceOptions,
    is_missing: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new run that is to save captions logs a warning if no column has them."""
    source = tmp_path / "list.jsonl"
    source.write_text('{"url": "http://a.example/", "n": 1, "text": "A cat", "caption": "A dog"}\n')
    config = RunConfig(output=OutputOptions(sidecars=sidecars), source=options)
    incremental.prepare(request(source, config), None, LocalStore(tmp_path / "out"), None)
    assert ["name the column with --caption-col" in text for text in caplog.messages] == [True] * is_missing


@pytest.mark.parametrize("state", list(State))
def test_refused_folder_names_the_modes(store: LocalStore, source: Path, state: State) -> None:
    """If the folder holds a run, the error of a command without a mode names the modes that can be used."""
    RunFile.load(store).save(store, state=state)
    with pytest.raises(UsageError) as refused, incremental.run_folder(store.root, None, None):
        raise AssertionError
    modes = ["overwrite", "extend"] if state is State.COMPLETE else ["skip", "overwrite"]
    assert all(f"`--incremental {mode}`" in refused.value.hint for mode in modes)
