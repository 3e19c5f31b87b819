"""The options of img2dataset, and their equivalents here, for error messages and for ``docs/from-img2dataset.md``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple


class Translation(NamedTuple):
    """An option of img2dataset with its default, and its equivalent here. Both texts are Markdown."""

    theirs: str
    ours: str

    @property
    def option(self) -> str | None:
        """The option of img2dataset, such as ``--url_col``; None if img2dataset has no such option."""
        found = _OPTION.match(self.theirs)
        return None if found is None else found[1]

    @property
    def answer(self) -> str:
        """The equivalent as plain text, without the links to pages."""
        return _LINK.sub(r"\1", _PAGE.sub("", self.ours)).replace("`", "")


_OPTION = re.compile(r"`(--\w+)")
#: A link in parentheses leads to a page with more. Other links are a part of the sentence.
_PAGE = re.compile(r" \(\[[^\]]*\]\([^)]*\)\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
#: The options of img2dataset (version 1.47.0), by the sections of the guide.
TRANSLATIONS: dict[str, tuple[Translation, ...]] = {
    "The list": (
        Translation(
            "`--url_list`",
            "the argument `SOURCE`: a file, a folder, a pattern, `-`, or [a URL](lists.md#remote-lists) "
            "(`https://`, `s3://`, `gs://`, `az://`)",
        ),
        Translation(
            "`--input_format` (`txt`)",
            "`--input-format`. Usually not needed, because imagefleet [recognizes](lists.md) `txt`, `csv`, `tsv`, "
            "`json`, `jsonl`, `parquet` and their `.gz`",
        ),
        Translation(
            "`--url_col` (`url`)",
            "`--url-col`. Usually not needed, because imagefleet finds a column with a usual name",
        ),
        Translation("`--caption_col`", "`--caption-col`"),
        Translation('`--save_additional_columns \'["a","b"]\'`', "`--columns a,b`"),
        Translation('`--verify_hash \'["COLUMN","KIND"]\'`', "`--hash-col COLUMN --verify-hash KIND`"),
        Translation(
            "`--bbox_col`",
            "no equivalent: imagefleet does not blur faces. Copy the column with `--columns`, and blur the images "
            "afterwards",
        ),
    ),
    "The output": (
        Translation(
            "`--output_folder` (`images`)",
            "`--out`, with a path or the [URL of an object store](object-stores.md): `s3://`, `gs://` or `az://`. "
            "Other fsspec paths have no equivalent",
        ),
        Translation(
            "`--output_format` (`files`)",
            "`--output-format` with `files`, `webdataset` or `parquet` ([Output](outputs.md)). `tfrecord` and "
            "`dummy` have no equivalent",
        ),
        Translation("`--number_sample_per_shard` (10,000)", "`--shard-size` (1,000; at most 10,000)"),
        Translation(
            "`--oom_shard_count` (5)",
            "no equivalent; shard numbers have 5 digits, or more from shard 100,000 on",
        ),
        Translation("`--compute_hash` (`sha256`)", "always `sha256`; `md5` and `sha512` have no equivalent"),
        Translation(
            "`--extract_exif` (true)",
            "`--extract-exif`; the same names and texts, but at most twenty tags "
            "([Images](images.md#facts-about-images))",
        ),
        Translation(
            "`--incremental_mode` (`incremental`)",
            "[`--incremental`](recovery.md#run-again-in-the-same-folder) with `skip` instead of `incremental`, and "
            "with `overwrite` or `extend`. Without it, a folder with a run is refused. `overwrite` removes only the "
            "files of the run; img2dataset removes the whole folder",
        ),
    ),
    "Images": (
        Translation(
            "`--resize_mode` (`border`)",
            "`--resize` (`no`) with the same names; also converts to sRGB and rotates as EXIF says "
            "([Images](images.md#resized-images)). For img2dataset's `no`, use `--encode-format jpg`",
        ),
        Translation(
            "`--image_size` (256)",
            "`--image-size` (256); with `--resize no` it has no effect and is refused, so omit it",
        ),
        Translation("`--resize_only_if_bigger`", "`--only-if-bigger`"),
        Translation("`--upscale_interpolation` (`lanczos`)", "`--upscale` (`lanczos`)"),
        Translation(
            "`--downscale_interpolation` (`area`)",
            "`--downscale`; the default filter for reducing looks like `area`, but is sharper",
        ),
        Translation(
            "`--encode_format` (`jpg`)",
            "`--encode-format`; also `avif`. All formats except `jpg` keep transparency. img2dataset flattens "
            "transparent areas onto white in every format",
        ),
        Translation(
            "`--encode_quality` (95)",
            "`--quality`; the default depends on the format ([Images](images.md#resized-images))",
        ),
        Translation("`--skip_reencode`", "`--skip-reencode`; images are still converted to sRGB and rotated"),
        Translation(
            "`--disable_all_reencoding`",
            "the default, without `--resize` and `--encode-format`. imagefleet still checks the image's header, and "
            "fills `width` and `height`",
        ),
        Translation("`--min_image_size` (0)", "`--min-size`"),
        Translation("`--max_image_area` (no limit)", "`--max-area`"),
        Translation("`--max_aspect_ratio` (no limit)", "`--max-aspect-ratio`"),
    ),
    "Downloads": (
        Translation("`--timeout` (10)", "`--timeout` (10 s), plus `--deadline` (60 s) for all attempts of an image"),
        Translation("`--retries` (0)", "`--retries` (2); only possibly temporary failures are retried, after a wait"),
        Translation(
            "`--user_agent_token`",
            "`--user-agent` sets the whole header; the default names imagefleet and its version",
        ),
        Translation(
            "`--disallowed_header_directives`",
            "The default refuses `noai`, `noimageai`, `noindex` and `noimageindex`, as in img2dataset, and also "
            "`none`. For `'[]'`, use `--ignore-opt-out`. Other lists have no equivalent",
        ),
        Translation(
            "no option, `robots.txt` is not read",
            "`--robots ignore` (the default); with `--robots obey`, imagefleet [obeys "
            "`robots.txt`](downloads.md#robotstxt)",
        ),
        Translation(
            "`--ignore_ssl_certificate` (after 1.47.0)",
            "`--insecure`, if the workers [allow it](security.md#tls)",
        ),
    ),
    "The fleet": (
        Translation("`--processes_count` (1)", "`--workers` (one per CPU core)"),
        Translation("`--thread_count` (256 per process)", "`--concurrency` (16 per worker; at most 256)"),
        Translation(
            "`--distributor` (`multiprocessing`)",
            "a local fleet, without `--broker`. Instead of `pyspark` and `ray`, Celery workers run on other hosts, "
            "and `--broker` names their Redis ([More than one machine](many-machines.md))",
        ),
        Translation(
            "`--subjob_size` (1,000)",
            "no equivalent, because shards are not grouped into jobs. `--window` limits the shards in flight",
        ),
        Translation("`--max_shard_retry` (1)", "no equivalent, because lost tasks are detected and resent one by one"),
        Translation("`--enable_wandb`", "no equivalent; use [Flower and Prometheus](monitoring.md)"),
        Translation("`--wandb_project`", "no equivalent"),
    ),
}
_BY_OPTION = {row.option: row for rows in TRANSLATIONS.values() for row in rows}


def translate(arguments: Sequence[str], known: Collection[str]) -> Iterator[Translation]:
    """Yield the translation of each option of img2dataset in a command line.

    Args:
        arguments: the command line.
        known: the options of the command, which need no translation.
    """
    given = dict.fromkeys(argument.partition("=")[0] for argument in arguments)
    for option in given:
        if option not in known and (found := _translation(option)) is not None:
            yield found


def is_translated(option: str) -> bool:
    """Return whether an option is one of img2dataset, also with the dashes of our options: ``--thread-count``."""
    return _translation(option) is not None


def _translation(option: str) -> Translation | None:
    found = _BY_OPTION.get(f"--{option.removeprefix('--').replace('-', '_')}")
    # An option with the same name here, such as `--timeout`, is only not an option of this command.
    return None if found is None or re.search(rf"{option}\b", found.ours) else found
