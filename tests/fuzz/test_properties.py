"""Generated URLs, heads and rows keep the documented properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.download.adapters import request_headers
from tasks.model import FetchOptions, HeaderOptions, ImageRequest, Outcome, Reason, RunOptions, Status
from tasks.redaction import redacted
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tests.fuzz import targets

_TEXT = st.text(max_size=12)
_SECRET = "5ecret"
_HOSTS = st.sampled_from(
    [
        "a.example",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "[::1]",
        "[::ffff:1.2.3.4]",
        "bücher.example",
        "a.",
        "",
    ]
) | st.from_regex(r"[0-9xa-f.]{1,16}", fullmatch=True)
_URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http:", "https:", "HTTP:", "ftp:", " http:", ""]),
        st.sampled_from(["//", "\\\\", "/\\", "/", "///", ""]),
        st.sampled_from(["", "user@", "user:pass@", "a@b@", "a:b/c@", "%40@"]) | _TEXT,
        _HOSTS | _TEXT,
        st.sampled_from(["", ":80", ":443", ":0", ":65536", ":x", ":"]),
        st.sampled_from(["", "/", "/a b", "/..", "\\..\\a", "/%2e%2e/", "/ä"]) | _TEXT,
        st.sampled_from(["", "?", "?a=b", "?token=c", "?%74oken=d", "#e", "?a#b?c"]) | _TEXT,
    ),
)
_NAMES = st.sampled_from(
    [
        *("Content-Length", "Transfer-Encoding", "Content-Encoding", "Location", "Retry-After", "X-Robots-Tag"),
        *("Content-Range", "Accept-Ranges", "ETag", "Last-Modified", "Connection", "X"),
    ]
)
_VALUES = st.sampled_from(
    [
        *(
            "0",
            "4",
            "-1",
            "4, 4",
            "9" * 30,
            "chunked",
            "gzip",
            "deflate, br",
            "identity",
            "close",
            "bytes",
            '"a"',
            "noai",
        ),
        *("/b", "//b.example", "http://127.0.0.1/", "https://a.example:80/", "bytes 4-7/8", "bytes 4-7/*", "bytes */8"),
        *("Thu, 01 Jan 1970 00:00:00 GMT", "imagefleet: none", 'W/"a"'),
    ]
) | st.text(st.characters(max_codepoint=255), max_size=12)
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)
_STATUSES = st.sampled_from([200, 204, 206, 301, 302, 304, 307, 404, 408, 416, 429, 500, 503]) | st.integers(100, 999)
_BODIES = st.sampled_from([b"", b"body", b"4\r\nbody\r\n0\r\n\r\n", b"ffffffffffffffffffff\r\n"]) | st.binary(
    max_size=12
)


@given(_URLS)
def test_url_has_a_stable_normal_form(url: str) -> None:
    """A URL in any form is parsed or refused, and parsing its normal form changes nothing."""
    targets.url(url.encode("utf-8", "replace"))


@given(
    st.sampled_from(["http://u:{}@a.example/", "http://a.example/?token={}", "http://a.example/b?c=d&%73ig={}#e"]),
    _TEXT,
)
def test_masks_a_secret_in_any_position(form: str, around: str) -> None:
    """A secret in a URL is redacted, whatever text surrounds the URL."""
    assert _SECRET not in redacted(f"{around} {form.format(_SECRET)} {around}")


@given(st.lists(st.tuples(_STATUSES, _FIELDS, _BODIES), min_size=1, max_size=4))
def test_download_ends_as_documented(answers: list[tuple[int, list[tuple[str, str]], bytes]]) -> None:
    """For any combination of fields in a server's answers, a download ends as documented."""
    made = []
    for status, fields, body in answers:
        head = [f"HTTP/1.1 {status} Text", *(f"{name}: {value}" for name, value in fields)]
        made.append("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
    targets.response(targets.NEXT.join(made))


@given(_TEXT, _TEXT, _TEXT)
def test_request_fields_are_single_lines(agent: str, name: str, value: str) -> None:
    """A request header that the user sets for a run is either refused or one line of ASCII."""
    try:
        fields = request_headers(HeaderOptions(user_agent=agent or None, extra=((name, value),)), None, True)
    except ValueError:
        return
    for line in (f"{key}: {text}" for key, text in fields.items()):
        assert line.isascii()
        assert line.replace("\t", " ").isprintable()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4), st.data())
def test_rows_survive_a_round_trip(found: list[str], data: st.DataObject) -> None:
    """A list's rows come back unchanged from the plan.

    Their Outcomes come back unchanged from Redis and the manifest.
    """
    mark = ShardRef("run", 0)
    texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    name = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
    columns = {} if name in ("index", "url") else {name: data.draw(texts)}
    requests = [ImageRequest(number, url, dict(columns)) for number, url in enumerate(found)]
    table = plan.decode(plan.encode(requests, mark), mark)
    assert [request.url for request in plan.requests(table)] == found
    outcomes = []
    for number in range(len(found)):
        reason = data.draw(st.none() | st.sampled_from(Reason))
        outcome = Outcome(
            f"{number:08d}",
            Status.SUCCESS if reason is None else reason.status,
            reason,
            error_message=data.draw(texts),
            etag=data.draw(texts),
            http_status=data.draw(st.none() | st.integers(100, 999)),
            finished_at=data.draw(st.integers(0, 2**40)) / 1000,
        )
        assert Outcome.from_json(outcome.to_json()) == outcome
        outcomes.append(outcome)
    back = list(manifest.outcomes(manifest.decode(manifest.encode(table, outcomes, mark), expected=mark)))
    assert back == outcomes


@given(
    st.dictionaries(
        st.sampled_from(["fetch", "folder", "shard_size", "x"]) | _TEXT, st.none() | st.integers(), max_size=3
    )
)
def test_ignores_options_of_another_version(more: dict[str, int | None]) -> None:
    """A run's options come back from Redis unchanged, whatever fields another version has added."""
    options = RunOptions("folder", 1000, FetchOptions())
    value = options.to_json()
    assert (
        RunOptions.from_json({**{name: item for name, item in more.items() if name not in value}, **value}) == options
    )
