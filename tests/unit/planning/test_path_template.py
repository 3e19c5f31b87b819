"""A template's names stay in the output folder, and differ from the run's files. No two names count as the same."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producer.planning.path_template import PRESETS, PathTemplate, checked_path, collision_key
from tasks.model import ImageRequest

_SIZE = 1000
_REQUEST = ImageRequest(1007, "http://Bücher.example:8080/a/b.jpg?c", {"label": "cats/tom", "year": 2026, "none": None})

#: Texts that are dangerous in names, and harmless texts.
_TEXTS = st.lists(
    st.sampled_from(
        [
            *("..", ".", "/", "\\", "~", "C:", "con", "NUL.x", "com¹", "aux", " ", "\0", "\n", "\u202e", "\u200d"),
            *(
                "é",
                "e\u0301",
                "ß",
                "SS",
                "İ",
                "\u017f",
                "K",
                "\u212a",
                "{sha256}",
                "{key}",
                "run",
                ".plan",
                ".tmp",
                ".lock",
            ),
            *("00000", "00000.parquet", "00000_stats", "a", "A", "x.jpg", "x" * 200, "\ud800", "日本", "🐈"),
        ]
    )
    | st.text(max_size=3),
    max_size=4,
).map("".join)
_PIECES = st.sampled_from(
    [
        "{shard}",
        "{key}",
        "{index}",
        "{url_sha1}",
        "{sha256}",
        "{host}",
        "{label}",
        "{other}",
        "/",
        "a",
        "-",
        "full",
        ".jpg",
    ]
)
_TEMPLATES = st.lists(_PIECES, min_size=1, max_size=6).map("".join)
_ROWS = st.lists(st.tuples(_TEXTS, _TEXTS), min_size=2, max_size=6)


def parsed(text: str) -> PathTemplate | None:
    """Return a template, or None if it is not valid."""
    try:
        return PathTemplate(text)
    except ValueError:
        return None


def rendered(template: PathTemplate, request: ImageRequest) -> str | None:
    """Return the file name of a request, or None if the request has no file name."""
    try:
        return template.render(request, _SIZE)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("full/{url_sha1}", f"full/{hashlib.sha1(_REQUEST.url.encode()).hexdigest()}"),
        ("image-{index}", "image-1007"),
        ("image-{index}.{ext}", "image-1007"),
        ("shard-{shard}/{key}", "shard-00001/00001007"),
        ("{host}/{key}", "xn--bcher-kva.example/00001007"),
        ("{label}/{year}-{index}", "cats/tom/2026-1007"),
        ("by-hash/{sha256}", "by-hash/{sha256}"),
    ],
)
def test_fields(template: str, name: str) -> None:
    """Each field has its value. Columns may be texts or numbers. A slash in a text makes a folder."""
    assert PathTemplate(template).render(_REQUEST, _SIZE) == name


def test_presets_are_valid() -> None:
    """Each preset is a template."""
    assert all(text is None or PathTemplate(text) for text in PRESETS.values())


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("image", "no field"),
        ("", "no field"),
        ("{key", "brace"),
        ("key}", "brace"),
        ("{{key}}", "brace"),
        ("{ext}/{key}", "only be at the end"),
        ("{key}{ext}", "only be at the end"),
        ("/{key}", "slash"),
        ("../{key}", r"\.\."),
        ("{key}/", "slash"),
        ("a\\{key}", "character"),
        ("c:{key}", "character"),
        ("nul/{key}", "device"),
        ("a./{key}", "dot"),
        (".plan/{key}", "hidden"),
        ("{shard}/x{key}", "folder of the run"),
        ("run.json/{key}", "folder of the run"),
        ("a.jpg/{key}", "could have the name of a file"),
        ("a.JSON/{key}", "could have the name of a file"),
    ],
)
def test_invalid_templates(template: str, why: str) -> None:
    """A template without valid names is refused as a whole."""
    with pytest.raises(ValueError, match=why):
        PathTemplate(template)


@pytest.mark.parametrize(
    ("template", "unique"),
    [
        ("full/{url_sha1}", False),
        ("image-{index}", True),
        ("{label}/{key}", True),
        ("{label}{key}", False),
        ("a{key}/{label}", False),
        ("a{key}/image", False),
        ("a{index}{key}", False),
        ("{label}/{sha256}", True),
        ("{key}", True),
    ],
)
def test_unique_templates(template: str, unique: bool) -> None:
    """To do without an index of names, a template must have a single unique field in its last part."""
    assert PathTemplate(template).is_unique is unique


@pytest.mark.parametrize("value", [None, "", True, [1], {"a": 1}, "..", "a/../b", "x" * 300, "{sha256}", "a\0"])
def test_unusable_values(value: object) -> None:
    """A row without a usable value is refused."""
    with pytest.raises(ValueError, match=r"column|name|part|character|slash"):
        PathTemplate("{label}").render(ImageRequest(0, "http://a.example/", {"label": value}), _SIZE)


def test_invalid_url_is_left_to_the_worker() -> None:
    """A URL without a host gets no name, so its row fails as invalid_url."""
    assert PathTemplate("{host}/{key}").render(ImageRequest(0, "http://"), _SIZE) is None


@given(_TEMPLATES, _TEXTS, _TEXTS)
@example("{label}", "a/../../b", "")
@example("{label}/{key}", "..", "")
@example("{label}", "run", "")
def test_no_name_leaves_the_folder(text: str, label: str, other: str) -> None:
    """Every name is below the output folder, on POSIX and on Windows, and is no file of the run."""
    template = parsed(text)
    if template is None:
        return
    path = rendered(template, ImageRequest(1007, "http://a.example/", {"label": label, "other": other}))
    if path is None:
        return
    name = path.replace("{sha256}", "f" * 64) + ".jpg"
    for kind in (PurePosixPath, PureWindowsPath):
        assert not kind(name).is_absolute()
        assert not kind(name).drive
        assert not {"..", ".", ""} & set(kind(name).parts)
        assert str(kind(name)) == name.replace("/", "\\" if kind is PureWindowsPath else "/")
    assert unicodedata.is_normalized("NFC", name)
    assert all(len(part.encode()) <= 255 for part in name.split("/"))
    for written in (name, name.removesuffix(".jpg") + ".json"):
        assert not re.match(
            r"(?i)\.|run\.json$|run\.json/|[0-9]{5,}/|[0-9]{5,}(\.parquet|\.tar|_stats\.json)($|/)", written
        )


@given(_TEMPLATES, _ROWS)
@example("{label}{index}", [("1", ""), ("", "")] + [("", "")] * 9 + [("", "")])
def test_unique_templates_have_no_collision(text: str, rows: list[tuple[str, str]]) -> None:
    """If a template has no index, its names differ, even for file systems that ignore case."""
    template = parsed(text)
    if template is None or not template.is_unique or "{sha256}" in text:
        return
    requests = [
        ImageRequest(index, "http://a.example/", {"label": label, "other": other})
        for index, (label, other) in enumerate(rows)
    ]
    names = [path for request in requests if (path := rendered(template, request)) is not None]
    assert len(set(map(collision_key, names))) == len(names)


@given(st.lists(_TEXTS, min_size=2, max_size=8))
def test_files_and_folders_never_have_the_same_name(texts: list[str]) -> None:
    """No name's file is the folder of another name."""
    names = []
    for text in texts:
        try:
            names.append(checked_path(text))
        except ValueError:
            continue
    for one, other in itertools.permutations(names, 2):
        assert not collision_key(other + ".png").startswith(collision_key(one + ".jpg") + "/")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("é", "e\u0301"), ("a\u200db", "ab"), ("\u212a", "k"), ("ǅ", "ǆ"), ("ﬁ", "FI")],
)
def test_names_that_some_file_system_takes_for_the_same(one: str, other: str) -> None:
    """Case, composition and invisible characters make no difference."""
    assert collision_key(one) == collision_key(other)
