"""The command in a report has the options of its run."""

from __future__ import annotations

import shlex
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner

from producer.cli.output_parameters import OutputParameters, output_options
from producer.cli.parameters import DownloadParameters, download_options
from producer.cli.source_parameters import SourceParameters, source_options
from producer.output.run_file import RunConfig, RunFile
from producer.report.repeat import library_options, lost_options, repeat_command
from tasks.model import FetchOptions


@click.command()
@click.argument("source")
@click.option("--out")
@source_options
@download_options
@output_options
@click.pass_context
def configure(
    context: click.Context,
    source: str,
    out: str,
    reading: SourceParameters,
    download: DownloadParameters,
    output: OutputParameters,
) -> None:
    """Compute the options of a run, as `producer run` does."""
    context.obj.append(replace(download.run_config(), source=reading.options(), output=output.output_options()))


def config_of(words: list[str]) -> RunConfig:
    """Return the options of a `producer run` command with these arguments."""
    found: list[RunConfig] = []
    ended = CliRunner().invoke(configure, words, obj=found)
    assert ended.exit_code == 0, ended.output
    return found[0]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--max-retry-after 1234567.5 --timeout 1200000",
        "--shard-size 500 --timeout 2.5 --retries 0 --verify decode --no-adaptive --per domain",
        "--resize border --image-size 64 --background '#102030' --quality 80 --only-if-bigger",
        "--formats jpeg,png --min-size 10 --max-aspect-ratio 2.5 --extract-exif --phash",
        "--input-format csv --url-col link --caption-col text --columns a --columns b --no-header --limit 5",
        "--output-format webdataset --max-bytes 1MiB --insecure --per-host-rate 2.5 --robots obey",
        "--sidecar json,txt --user-agent 'my agent' --dedupe url --path-template '{key}'",
    ],
)
def test_command_gives_the_same_options(options: str) -> None:
    """The options of a run give a command whose options are equal."""
    config = config_of(["list.txt", "--out", "out", *shlex.split(options)])
    record = RunFile("20260101-000000-abcdef", "list.txt", "out", config)
    words = shlex.split(repeat_command(record))
    assert words[:5] == ["producer", "run", "list.txt", "--out", "ANOTHER_FOLDER"]
    assert config_of(words[2:]) == config


def test_options_of_the_library_are_not_in_the_command() -> None:
    """The command has only options that it accepts. The report names the others."""
    fetch = FetchOptions(timeout=5.0, backoff=3.0, max_pixels=5)
    record = RunFile("20260101-000000-abcdef", "list.txt", "out", RunConfig(fetch))
    assert shlex.split(repeat_command(record))[-2:] == ["--timeout", "5"]
    assert library_options(record) == ["backoff", "max_pixels"]


def test_secrets_are_not_in_the_command() -> None:
    """Values of headers, and passwords in the list's URL, are masked. The report says what is missing."""
    config = config_of(
        ["l.txt", "--out", "out", "--header", "Cookie: topsecret", "--referer", "http://me:pw1@a.example/"]
    )
    record = RunFile("20260101-000000-abcdef", "https://me:pw2@a.example/l.txt", "out", config)
    command = repeat_command(record)
    assert not any(secret in command for secret in ("topsecret", "pw1", "pw2"))
    assert "Cookie:***" in command
    assert lost_options(record) == ["--header"]
