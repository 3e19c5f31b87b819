"""A usage error says what to type instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from producer.cli.img2dataset_options import TRANSLATIONS
from producer.cli.main import cli


def error(*arguments: str) -> str:
    """Return the error of a command line, with its lines joined."""
    result = CliRunner().invoke(cli, arguments, prog_name="producer", terminal_width=100)
    assert (result.exit_code, result.stdout) == (2, "")
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "theirs",
    [
        row.option
        for rows in TRANSLATIONS.values()
        for row in rows
        if row.option not in (None, "--timeout", "--retries")
    ],
)
def test_each_option_of_img2dataset_is_translated(theirs: str) -> None:
    """An option that only img2dataset has is answered with the equivalent of the guide, as plain text."""
    row = next(row for rows in TRANSLATIONS.values() for row in rows if row.option == theirs)
    shown = error("run", "urls.txt", "--out", "images", theirs, "3")
    assert f"Error: This is an option of img2dataset. What to use instead: {theirs} {row.answer}" in shown
    assert "`" not in row.answer
    assert "](" not in row.answer
    assert "docs/from-img2dataset.md" in shown


@pytest.mark.parametrize("typed", ["--thread-count", "--thread-count=3", "--url-list", "--resize-mode"])
def test_dashes_are_translated_too(typed: str) -> None:
    """An option of img2dataset is recognised with dashes, as in our own options."""
    option = typed.partition("=")[0]
    theirs = "--" + option.removeprefix("--").replace("-", "_")
    assert f"This is an option of img2dataset. What to use instead: {theirs} " in error("run", "a", "--out", "b", typed)


@pytest.mark.parametrize("option", ["--output-format", "--timeout", "--retries"])
def test_our_options_are_not_translated(option: str) -> None:
    """If a command lacks an option that another command has, the error does not say that the option is foreign."""
    shown = error("status", "images", option, "5")
    assert f"No such option '{option}'. It is an option of: producer run" in shown
    assert "img2dataset" not in shown


def test_options_of_other_commands_are_explained() -> None:
    """If another command has the option, the error names it, and says which options a continued run has."""
    shown = error("retry", "images", "--timeout", "30")
    assert "It is an option of: producer run, producer compare." in shown
    assert shown.endswith("producer retry uses the options with which the run was started.")
    assert error("status", "images", "--port", "1").endswith("It is an option of: producer gallery, producer serve.")
    assert "It is an option of" not in error("status", "images", "--ports", "1")


def test_translates_all_options_of_a_command_at_once() -> None:
    """A whole command of img2dataset is translated in one message, also without a command of ours."""
    theirs = ["--url_list", "urls.txt", "--output_folder=images", "--thread_count", "64", "--timeout", "5"]
    for before in ([], ["run"], ["--debug", "run", "urls.txt"]):
        shown = error(*before, *theirs)
        assert "These are options of img2dataset. What to use instead: --url_list the argument SOURCE" in shown
        assert "--output_folder --out, with a path" in shown
        assert "--thread_count --concurrency (16 per worker; at most 256)" in shown
    assert "--timeout" not in error("run", *theirs)


def test_other_unknown_options_get_a_suggestion() -> None:
    """An option with a typing error is answered with the option that is meant."""
    assert "No such option '--shard_size'." in error("run", "a", "--out", "b", "--shard_size", "3")
    assert "--shard-size" in error("run", "a", "--out", "b", "--shard_size", "3")
    assert "img2dataset" not in error("run", "a", "--out", "b", "--shard_size", "3", "--image_size", "4")


@pytest.mark.parametrize("source", ["https://user:secret@a.example/urls.txt", __file__])
def test_list_in_place_of_a_command(source: str) -> None:
    """If a command line begins with a list, the error names the command for lists. It shows no password."""
    shown = error(source, "--out", "images")
    assert "To download a list, run: producer run SOURCE --out FOLDER" in shown
    assert "secret" not in shown


def test_missing_arguments_come_with_an_example() -> None:
    """If the list or the folder is missing, the error shows where it belongs."""
    assert "for example: producer run urls.txt --out images" in error("run", "--out", "images")
    assert "Missing option '--out'. Give a folder for the images, for example: --out images" in error("run", "a.txt")
    assert "for example: producer resume images" in error("resume")
    assert "Did you mean 'resume'?" in error("resum", "images")
