"""The guide for users of img2dataset names all options of img2dataset, and its commands can be parsed."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import fields
from typing import Any

import click
import pytest

from benchmarks.programs import IMG2DATASET
from docs.produce import ROOT
from producer.cli.image_parameters import ImageParameters
from producer.cli.main import cli
from producer.cli.output_parameters import OutputParameters
from producer.cli.parameters import DownloadParameters
from producer.cli.run_commands import run
from producer.cli.source_parameters import SourceParameters
from producer.cli.throttle_parameters import ThrottleParameters
from tasks.model import OUTCOME_FIELDS, Outcome, Reason, Status
from tasks.storage import manifest

PAGE = (ROOT / "docs" / "from-img2dataset.md").read_text()
#: The options of img2dataset's latest release, 1.47.0.
RELEASED = [
    "url_list",
    "image_size",
    "output_folder",
    "processes_count",
    "resize_mode",
    "resize_only_if_bigger",
    "upscale_interpolation",
    "downscale_interpolation",
    "encode_quality",
    "encode_format",
    "skip_reencode",
    "output_format",
    "input_format",
    "url_col",
    "caption_col",
    "bbox_col",
    "thread_count",
    "number_sample_per_shard",
    "extract_exif",
    "save_additional_columns",
    "timeout",
    "enable_wandb",
    "wandb_project",
    "oom_shard_count",
    "compute_hash",
    "verify_hash",
    "distributor",
    "subjob_size",
    "retries",
    "disable_all_reencoding",
    "min_image_size",
    "max_image_area",
    "max_aspect_ratio",
    "incremental_mode",
    "max_shard_retry",
    "user_agent_token",
    "disallowed_header_directives",
]
#: The option that img2dataset has in its repository, but not yet in a release.
UNRELEASED = {"ignore_ssl_certificate"}


def section(title: str) -> str:
    """Return the text of a section, with its subsections."""
    found = re.search(rf"^(#+) {title}\n(.*?)(?=^(?!\1#)#+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[2]


def cells(title: str, column: int) -> list[str]:
    """Return the code in one column of a section's tables."""
    rows = [line.split("|") for line in section(title).splitlines() if line.startswith("| ")]
    return [code for row in rows for code in re.findall("`([^`]+)`", row[column])]


def commands() -> list[list[str]]:
    """Return the words of each command in the page's blocks."""
    blocks = re.findall("^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]


def options_of(words: list[str]) -> set[str]:
    """Return the names of the options in a command of img2dataset."""
    return {word.removeprefix("--") for word in words if word.startswith("--")}


def build(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return a group of options from the values of a command."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def parse(words: list[str]) -> dict[str, Any]:
    """Return the values of a `producer run` command, without running it."""
    # Click caches the help option of a command. The option's names come from the parent command.
    with click.Context(cli, **cli.context_settings) as parent, run.make_context("run", list(words), parent) as context:
        return dict(context.params)


OPTIONS = [code.split()[0].removeprefix("--") for code in cells("Options", 1) if code.startswith("--")]
OURS = [words[2:] for words in commands() if words[:2] == ["producer", "run"]]
THEIRS = [words[1:] for words in commands() if words[0] == "img2dataset"]


def test_each_option_of_img2dataset_has_one_row() -> None:
    """The tables have exactly the options of img2dataset.

    If img2dataset is installed for the benchmarks, its options are compared too.
    """
    assert sorted(OPTIONS) == sorted({*RELEASED, *UNRELEASED})
    for main in IMG2DATASET.parents[1].glob("lib/python3*/site-packages/img2dataset/main.py"):
        functions = [node for node in ast.parse(main.read_text()).body if isinstance(node, ast.FunctionDef)]
        download = next(node for node in functions if node.name == "download")
        assert [argument.arg for argument in download.args.args] == RELEASED


def test_named_options_exist() -> None:
    """Each option in the tables' second column is an option of the command."""
    known = {name for parameter in run.params for name in parameter.opts}
    named = {word for code in cells("Options", 2) for word in code.split() if word.startswith("--")}
    assert named - known == set()
    assert len(named) > 30


def test_each_command_of_img2dataset_has_an_equivalent() -> None:
    """The commands are in pairs, and each of their options has a row in the tables."""
    assert len(OURS) == len(THEIRS) > 15
    for words in THEIRS:
        assert options_of(words) <= set(OPTIONS)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_command_is_valid(words: list[str]) -> None:
    """The options of each command are known and do not conflict. Nothing is run."""
    values = parse(words)
    assert values["source"] == words[0]
    values["images"] = build(ImageParameters, values)
    values["throttle"] = build(ThrottleParameters, values)
    for convert in (
        build(SourceParameters, values).options,
        build(DownloadParameters, values).run_config,
        build(OutputParameters, values).output_options,
    ):
        convert()


def test_unknown_options_are_noticed() -> None:
    """The parser that checks the commands refuses an option of img2dataset."""
    with pytest.raises(click.NoSuchOption):
        parse(["urls.txt", "--out", "images", "--resize_mode", "border"])


def test_columns_and_stats_exist() -> None:
    """The named columns, statuses, reasons and keys of the stats are those that imagefleet writes."""
    stats = manifest.stats([Outcome("00000000", Status.SUCCESS)])
    assert set(cells("Stats", 1)) == set(stats) | {"00000_stats.json"}
    assert set(cells("Columns", 2)) - {"url", "caption", "image"} <= set(OUTCOME_FIELDS)
    assert set(cells("Statuses and reasons", 2)) <= {"status", *Status}
    assert set(cells("Statuses and reasons", 3)) <= {"reason", *Reason}
