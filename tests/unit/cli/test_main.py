"""Commands have help, refuse invalid arguments before anything starts, and exit with their documented status."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import cloup
import pytest
from click.testing import CliRunner

from config import VERSION
from producer.cli import main as command_line
from producer.local_fleet.supervisor_client import ROOT
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef

_COMMANDS = sorted(command_line.cli.commands)
#: A broker that refuses connections.
_DEAD = "redis://127.0.0.1:1/0"
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Main]:
    """Run the command line in this process; return its exit status, stdout and stderr."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["producer", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        written = capsys.readouterr()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return status, written.out, written.err

    yield run
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def parts(errors: str) -> list[str]:
    """Return the labels of an error's parts. A long part continues on indented lines."""
    return [line.split(":")[0] for line in errors.splitlines() if not line.startswith(" ")]


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """The help of each command has a description, and a text for each option."""
    result = CliRunner().invoke(command_line.cli, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {command} ")
    described = command_line.cli.commands[command]
    assert described.help
    for option in described.params:
        assert option.name in ("source", "out", "shell") or getattr(option, "help", None), option.name


def test_help_lists_every_command(main: Main) -> None:
    """The program's help lists all commands in sections, and describes each in a sentence."""
    status, output, _ = main("--help")
    assert status == 0
    sections = output.partition("Options:")[2].partition("Examples:")[0]
    listed = [found[1] for found in re.finditer(r"^  ([a-z]+) +[A-Z]", sections, re.MULTILINE)]
    assert sorted(listed) == _COMMANDS
    assert "Other commands" not in output
    assert "..." not in sections


@pytest.mark.parametrize("command", _COMMANDS)
def test_options_are_in_groups(command: str) -> None:
    """The help of a command with many options has a group for each of them, except for --help."""
    described = command_line.cli.commands[command]
    assert isinstance(described, cloup.Command)
    if len(described.params) > 8:
        assert [param.opts for param in described.ungrouped_options] == []


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_examples_can_be_parsed(command: str) -> None:
    """Each command has examples. The options of an example exist, and their values are valid. Nothing is run."""
    described = command_line.cli.commands[command] if command else command_line.cli
    examples = re.findall(r"^  (producer .*)", described.epilog or "", re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(re.split(" >>? ", example)[0])[1:]
        with click.Context(command_line.cli) as parent:
            command_line.cli.commands[words[0]].make_context(words[0], words[1:], parent)


def test_version(main: Main) -> None:
    """`--version` prints the version."""
    assert main("--version") == (0, f"imagefleet, version {VERSION}\n", "")


def test_module_is_the_command() -> None:
    """``python -m producer`` runs the program."""
    command = [sys.executable, "-m", "producer", "run"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Missing argument 'SOURCE'" in ended.stderr


_USAGE = {
    "no command": ([], "Usage"),
    "unknown command": (["fly"], "No such command"),
    "no SOURCE": (["run"], "Missing argument 'SOURCE'"),
    "no --out": (["run", "list.txt"], "Missing option '--out'"),
    "unknown option": (["run", "list.txt", "--out", "o", "--fast"], "No such option"),
    "deadline above its maximum": (["run", "list.txt", "--out", "o", "--deadline", "151"], "must be at most 150 s"),
    "deadline of a comparison": (["compare", "list.txt", "--out", "o", "--deadline", "3m"], "must be at most 150 s"),
    "unknown encoding": (["run", "list.txt", "--out", "o", "--encoding", "base64"], "is not an encoding that Python"),
    "bad base": (["run", "list.txt", "--out", "o", "--base-url", "a.example"], "Invalid value for --base-url"),
    "hash without its kind": (["run", "list.txt", "--out", "o", "--hash-col", "h"], "need each other"),
    "seed without sample": (["run", "list.txt", "--out", "o", "--seed", "1"], "only with --sample"),
    "timeout of zero": (["run", "list.txt", "--out", "o", "--timeout", "0"], "at least 0.001 s"),
    "timeout that is not a number": (
        ["run", "list.txt", "--out", "o", "--timeout", "soon"],
        "'soon' is not a duration",
    ),
    "size that is not a number": (["run", "list.txt", "--out", "o", "--max-bytes", "big"], "'big' is not a size"),
    "too many retries": (["run", "list.txt", "--out", "o", "--retries", "11"], "0<=x<=10"),
    "no workers": (["run", "list.txt", "--out", "o", "--workers", "0"], "1<=x<=256"),
    "shards too large": (["run", "list.txt", "--out", "o", "--shard-size", "10001"], "1<=x<=10000"),
    "unknown resize mode": (["run", "list.txt", "--out", "o", "--resize", "crop"], "'no', 'border'"),
    "image size of zero": (
        ["run", "list.txt", "--out", "o", "--resize", "keep_ratio", "--image-size", "0"],
        "1<=x<=10000",
    ),
    "image size without --resize": (["run", "list.txt", "--out", "o", "--image-size", "64"], "add --resize keep_ratio"),
    "image size of a comparison": (
        ["compare", "list.txt", "--out", "o", "--image-size", "64"],
        "add --resize keep_ratio",
    ),
    "no images": (["demo", "--images", "0"], "1<=x<=100000"),
    "OUT without a bucket": (["run", "list.txt", "--out", "s3:///x"], "the bucket's name is missing"),
    "OUT above its bucket": (["run", "list.txt", "--out", "GS://bucket/x/../.."], "the prefix has the part '..'"),
    "OUT in an unknown store": (["run", "list.txt", "--out", "hdfs://a/x"], "hdfs:// is not supported"),
    "OUT as a file URL": (["run", "list.txt", "--out", "file:///tmp/x"], "file:// is not supported"),
    "OUT of a comparison": (["compare", "list.txt", "--out", "hdfs://a/x"], "hdfs:// is not supported"),
    "OUT of a demo": (["demo", "--out", "s3a://bucket/x"], "s3a:// is not supported"),
    "previous run in an invalid URL": (
        ["run", "list.txt", "--out", "o", "--refresh-from", "s3://bucket/a//b"],
        "the prefix has the part ''",
    ),
    "OUT of resume in an unknown store": (["resume", "ftp://bucket/x"], "ftp:// is not supported"),
    "OUT of a comparison in S3": (["compare", "list.txt", "--out", "s3://bucket/x"], "s3:// is not supported"),
    "SOURCE in an unknown store": (["run", "hdfs://a/list.txt", "--out", "o"], "hdfs:// is not supported"),
    "SOURCE as a file URL": (["run", "file:///list.txt", "--out", "o"], "give the path without file://"),
    "SOURCE of a comparison": (["compare", "ftp://a.example/list", "--out", "o"], "ftp:// is not supported"),
    "port out of range": (["serve", "--port", "65536"], "0<=x<=65535"),
}


@pytest.mark.parametrize(("arguments", "message"), _USAGE.values(), ids=_USAGE)
def test_wrong_usage_exits_with_2(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Invalid arguments are reported before a list is read or a folder is created."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    status, output, errors = main(*arguments)
    assert (status, output) == (2, "")
    assert message in errors
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_refused_url_shows_no_password(main: Main) -> None:
    """If a URL is given in place of a path, the error shows only the URL's scheme."""
    status, _, errors = main("run", "https://user:secret@a.example/list?token=secret", "--out", "o")
    assert status == 2
    assert "secret" not in errors


@pytest.mark.parametrize("name", ["s3:", "a:b", "://x", "3://x"])
def test_folder_with_a_colon_in_its_name(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A name with a colon is a folder's name, not a URL."""
    monkeypatch.chdir(tmp_path)
    status, _, errors = main("resume", name)
    assert status == 2
    assert "There is no folder" in errors


_ERRORS: dict[str, tuple[bytes | None, list[str], int, str]] = {
    "missing list": (None, [], 2, "No such file or directory"),
    "empty list": (b"", [], 2, "contains no URLs"),
    "only comments": (b"# nothing\n\n", [], 2, "contains no URLs"),
    "binary list": (b"\0\0\0", [], 2, "is not a text file"),
    "table": (b"a\thttp://a.example/1.jpg\n", [], 2, "looks like a table"),
    "JSON": (b'["http://a.example/1.jpg"]', [], 2, "looks like a JSON array"),
    "text without URLs": (b"Dear reader,\nthis is no list.\n", [], 2, "none of its first 2 rows"),
    "unsupported broker": (b"http://a.example/\n", ["--broker", "amqp://u:secret@a.example"], 2, "can't be used"),
    "broker without verification": (b"http://a.example/\n", ["--broker", "rediss://:secret@a.example"], 2, "verified"),
}


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize(("body", "more", "status", "message"), _ERRORS.values(), ids=_ERRORS)
def test_error_has_three_parts(
    main: Main, tmp_path: Path, command: str, body: bytes | None, more: list[str], status: int, message: str
) -> None:
    """An error has three parts (Error, Why, To do), and no traceback or password."""
    source = tmp_path / "list.txt"
    if body is not None:
        source.write_bytes(body)
    ended, output, errors = main(command, str(source), "--out", str(tmp_path / "out"), *more)
    assert (ended, output) == (status, "")
    assert parts(errors) == ["Error", "Why", "To do"]
    assert message in errors
    assert "secret" not in errors
    assert not list(tmp_path.glob("out/*/*"))


@pytest.mark.parametrize("command", ["run", "compare"])
def test_folder_with_a_run_is_refused(main: Main, tmp_path: Path, command: str) -> None:
    """A folder with a run is refused before anything starts, and is left unchanged."""
    source, out = tmp_path / "list.txt", tmp_path / "out"
    source.write_text("http://a.example/\n")
    out.mkdir()
    (out / "run.json").write_text("{}")
    status, _, errors = main(command, str(source), "--out", str(out))
    assert (status, parts(errors)) == (2, ["Error", "Why", "To do"])
    assert (out / "run.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PREFETCH", "many"), ("STORE_ROOTS", "data"), ("ALLOW_NETWORKS", "10.0.0.0/33")],
)
def test_invalid_variable_is_named(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    """The error names the environment variable whose value is invalid."""
    monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    status, _, errors = main("compare", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"))
    assert status
    assert parts(errors) == ["Error", "Why", "To do"]
    assert f"IMAGEFLEET_{name}" in errors
    assert "--debug" not in errors


_UNFIT = {
    "proxy": ("PROXY", "me:word"),
    "proxy with a user": ("PROXY", "http://me:word@127.0.0.1:3/path"),
    "allowed networks": ("ALLOW_NETWORKS", "foo/bar"),
    "denied networks": ("DENY_NETWORKS", "foo/bar"),
    "certificates": ("CA_BUNDLE", "/nope"),
    "proxy's password": ("PROXY_PASSWORD_FILE", "/nope"),
    "broker's password": ("BROKER_PASSWORD_FILE", "/nope"),
}


@pytest.mark.parametrize("command", ["run", "fleet"])
@pytest.mark.parametrize(("name", "value"), _UNFIT.values(), ids=_UNFIT)
def test_invalid_worker_setting_is_refused_before_the_fleet_starts(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, name: str, value: str
) -> None:
    """A setting that would stop a local fleet's workers is reported before a worker starts.

    Redaction leaves the message readable.
    """
    monkeypatch.setattr("producer.local_fleet.fleet.Fleet", None)
    monkeypatch.setenv("IMAGEFLEET_PROXY", "http://127.0.0.1:3")
    monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    arguments = {"run": [str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")], "fleet": []}[command]
    status, _, errors = main(command, *arguments)
    assert (status, parts(errors)) == (2, ["Error", "Why", "To do"])
    assert f"A setting is invalid\nWhy:   IMAGEFLEET_{name}" in errors
    assert "word@127" not in errors
    assert "***" not in errors
    assert name != "PROXY" or "http://host:port, with user:password@ before the host" in errors
    assert not (tmp_path / "out").exists()


def test_worker_settings_are_not_checked_with_a_broker(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With `--broker`, workers have their own environments. The command's own environment is not checked."""
    monkeypatch.setenv("IMAGEFLEET_PROXY", "me:word")
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    _, _, errors = main("run", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), "--broker", _DEAD)
    assert "IMAGEFLEET_PROXY" not in errors
    assert "can't be reached" in errors


def test_unexpected_error_points_to_debug(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unexpected error has three parts too; with --debug its traceback is shown."""
    monkeypatch.setattr("producer.sources.url_list.read", lambda *_: 1 / 0)
    arguments = ["run", "list.txt", "--out", str(tmp_path / "out")]
    status, _, errors = main(*arguments)
    assert (status, parts(errors)) == (1, ["Error", "Why", "To do"])
    assert "ZeroDivisionError" in errors
    assert "--debug" in errors
    monkeypatch.setattr(sys, "argv", ["producer", "--debug", *arguments])
    with pytest.raises(ZeroDivisionError):
        command_line.main()


def test_interrupt_exits_with_130(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C ends the command with status 130; the message says that saved images stay."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("producer.sources.url_list.read", interrupt)
    status, output, errors = main("run", "list.txt", "--out", str(tmp_path / "out"))
    assert (status, output) == (130, "")
    assert errors.strip().startswith("Interrupted.")


@pytest.mark.parametrize(("body", "more", "status", "message"), _ERRORS.values(), ids=_ERRORS)
@pytest.mark.parametrize("command", ["run", "compare"])
def test_error_is_a_json_object(
    main: Main, tmp_path: Path, command: str, body: bytes | None, more: list[str], status: int, message: str
) -> None:
    """With --json an error is one object on stdout, and the usual text on stderr."""
    source = tmp_path / "list.txt"
    if body is not None:
        source.write_bytes(body)
    ended, output, errors = main(command, str(source), "--out", str(tmp_path / "out"), *more, "--json")
    assert ended == status
    assert parts(errors) == ["Error", "Why", "To do"]
    assert output.count("\n") == 1
    (error,) = json.loads(output).values()
    assert error.pop("exit_code") == status
    assert set(error) == {"what", "why", "todo"}
    assert message in error["what"] + error["why"]
    assert "secret" not in output


@pytest.mark.parametrize(
    ("arguments", "message"), [usage for usage in _USAGE.values() if len(usage[0]) > 3 and "--fast" not in usage[0]]
)
def test_usage_error_is_a_json_object(
    main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """With --json an invalid option is reported as one object, wherever --json is on the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    status, output, errors = main(*arguments, "--json")
    error = json.loads(output)["error"]
    assert (status, error["exit_code"]) == (2, 2)
    assert message in error["why"]
    assert message in errors
    assert error["todo"].endswith(f" {arguments[0]} --help`.")


def test_unexpected_error_is_a_json_object(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With --json an unexpected error and an interruption are reported as one object too."""
    arguments = ["run", "list.txt", "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr("producer.sources.url_list.read", lambda *_: 1 / 0)
    status, output, _ = main(*arguments)
    assert (status, json.loads(output)["error"]["exit_code"]) == (1, 1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("producer.sources.url_list.read", interrupt)
    status, output, _ = main(*arguments)
    assert (status, json.loads(output)) == (130, {"interrupted": True, "cancelled": False})


def test_unreachable_broker_leaves_no_folder(main: Main, tmp_path: Path) -> None:
    """If a run can't start, the folder that was created for the run is removed. The folder's lock is removed too."""
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    out = tmp_path / "a" / "out"
    for command in ("run", "compare"):
        status, _, errors = main(command, str(tmp_path / "list.txt"), "--out", str(out), "--broker", _DEAD)
        assert (status, parts(errors)) == (1, ["Error", "Why", "To do"])
        assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("state", [state for state in State if state is not State.REMOVING])
def test_failed_resume_is_not_recorded_as_running(main: Main, tmp_path: Path, state: State) -> None:
    """If a resumed run gets no fleet, the state in its record stays the same.

    Only a record in the state "running" becomes "failed".
    """
    store = LocalStore(tmp_path)
    record = RunFile("id", "-", str(tmp_path), RunConfig(), plan=PlanState.COMPLETE, planned_rows=1, planned_shards=1)
    record.create(store)
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "http://a.example/")], ShardRef("id", 0)))
    record.save(store, state=state)
    status, output, errors = main("resume", str(tmp_path), "--broker", _DEAD, "--json")
    assert status == 1
    printed = json.loads(output)
    assert (printed["run_id"], printed["out"], printed["resume"]) == (
        "id",
        str(tmp_path),
        f"producer resume {tmp_path}",
    )
    assert RunFile.load(store).state is (State.FAILED if state is State.RUNNING else state)
    assert ("died without recording why" in errors) is (state is State.RUNNING)


@pytest.mark.parametrize(
    ("broker", "status", "message"),
    [(_DEAD, 1, "can't be reached"), ("redis://***@127.0.0.1:1/0", 2, "Add --broker with the full URL")],
)
def test_cancel_asks_the_runs_broker(main: Main, tmp_path: Path, broker: str, status: int, message: str) -> None:
    """If a run's producer is dead, `cancel` asks the run's broker before it records the run as cancelled."""
    store = LocalStore(tmp_path)
    RunFile("id", "-", str(tmp_path), RunConfig(), broker=broker).create(store)
    ended, _, errors = main("cancel", str(tmp_path))
    assert (ended, parts(errors)) == (status, ["Error", "Why", "To do"])
    assert message in errors
    assert RunFile.load(store).state is State.RUNNING


def test_cancel_of_a_local_run_asks_no_broker(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`cancel` does not ask the configured broker about a run with a local fleet.

    A run with a local fleet leaves nothing in the configured broker.
    """
    monkeypatch.setenv("IMAGEFLEET_BROKER_URL", _DEAD)
    store = LocalStore(tmp_path)
    RunFile("id", "-", str(tmp_path), RunConfig()).create(store)
    status, _, errors = main("cancel", str(tmp_path))
    assert (status, RunFile.load(store).state) == (0, State.CANCELLED)
    assert errors.strip().endswith(f"To resume it, run: producer resume {tmp_path}")


@pytest.mark.parametrize("complete", [False, True])
def test_cancel_prints_json(main: Main, tmp_path: Path, complete: bool) -> None:
    """With --json, `cancel` prints the state of the run, and how to resume it if it is not complete."""
    state = State.COMPLETE if complete else State.RUNNING
    RunFile("id", "-", str(tmp_path), RunConfig(), state=state).create(LocalStore(tmp_path))
    status, output, errors = main("cancel", str(tmp_path), "--json")
    facts = {"run_id": "id", "out": str(tmp_path), "state": "complete" if complete else "cancelled"}
    assert (status, errors) == (0, "")
    assert json.loads(output) == (facts if complete else {**facts, "resume": f"producer resume {tmp_path}"})


def test_change_of_broker_is_reported(main: Main, tmp_path: Path) -> None:
    """If a run continues on another broker, the command reports the change, without secrets."""
    store = LocalStore(tmp_path)
    record = RunFile("id", "-", str(tmp_path), RunConfig(), plan=PlanState.COMPLETE, planned_rows=1, planned_shards=1)
    replace(record, broker="redis://***@a.example/0", state=State.INTERRUPTED).create(store)
    store.create_durably(plan.name(0), plan.encode([ImageRequest(0, "http://a.example/")], ShardRef("id", 0)))
    _, _, errors = main("resume", str(tmp_path), "--broker", _DEAD)
    assert f"The run used the broker redis://***@a.example/0 before. Now it continues at {_DEAD}." in errors
    assert RunFile.load(store).broker == "redis://***@a.example/0"


def test_cancelled_run_is_reported_as_cancelled(main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run cancelled by another command is not reported as interrupted."""
    monkeypatch.setattr("producer.sources.url_list.read", lambda *_: signal.raise_signal(signal.SIGUSR1))
    status, output, errors = main("run", "list.txt", "--out", str(tmp_path / "out"), "--json")
    assert (status, json.loads(output)) == (130, {"interrupted": True, "cancelled": True})
    assert errors.strip().startswith("Cancelled by another command.")


def test_unusable_listen_address_is_an_error(main: Main) -> None:
    """If a demo server can't listen, the error names the address and an alternative."""
    status, _, errors = main("serve", "--host", "192.0.2.1")
    assert (status, parts(errors)) == (2, ["Error", "Why", "To do"])
    assert "192.0.2.1:8765" in errors
    # The message gives the cause only once.
    assert errors.count("listen") == 1


@pytest.mark.parametrize("option", ["--out", "--broker"])
def test_empty_value_is_refused(main: Main, tmp_path: Path, option: str) -> None:
    """An empty value, as from an unset shell variable, is not taken as "no folder" or "no broker"."""
    (tmp_path / "list.txt").write_text("http://a.example/\n")
    values = {"--out": str(tmp_path / "out"), "--broker": "redis://127.0.0.1:1/0"} | {option: ""}
    arguments = [item for pair in values.items() for item in pair]
    status, output, errors = main("run", str(tmp_path / "list.txt"), *arguments)
    assert (status, output) == (2, "")
    assert "empty" in errors
