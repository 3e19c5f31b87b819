"""Make the requests of a URL list from its rows: complete their URLs, and check their hashes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from producer.sources.files import ListFiles
from producer.sources.options import HashKind, SourceOptions
from producer.sources.reader import BadRow, Row
from tasks.download import urls
from tasks.download.body_hash import DIGITS
from tasks.errors import InvalidUrlError
from tasks.model import ImageRequest, Reason, Refusal

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A base that is only a scheme.
_BARE_SCHEME = re.compile(r"(https?):(?://)?", re.IGNORECASE)


def make_requests(rows: Iterable[Row], files: ListFiles, options: SourceOptions) -> Iterator[ImageRequest]:
    """Yield the requests of the rows, numbered from 0."""
    names = files.schema.names
    nothing = dict.fromkeys(names)
    places = list(enumerate(names, 1))
    end = 1 + len(names)
    complete = None if options.base_url is None else url_completer(options.base_url)
    for index, row in enumerate(rows):
        if isinstance(row, BadRow):
            yield _refused(index, files.explain(row), nothing)
            continue
        url = row[0]
        values = {name: row[place] for place, name in places}
        if not isinstance(url, str) or not (url := url.strip()):
            yield _refused(index, f"{files.where()} has no URL", values)
            continue
        if complete is not None:
            url = complete(url)
        path = None if options.path_col is None else _path(row[-1])
        if options.verify_hash is None or row[end] is None:
            yield ImageRequest(index, url, values, None, None, path)
        elif (expected := _expected_hash(row[end], options.verify_hash)) is not None:
            yield ImageRequest(index, url, values, path=path, expected_hash=expected)
        else:
            why = f"{files.where()} has no {options.verify_hash} in hexadecimal digits in {options.hash_col}"
            yield _refused(index, why, values)


def url_completer(base: str) -> Callable[[str], str]:
    """Return a function that completes URLs without a scheme.

    Args:
        base: a scheme such as ``https://``, or the URL of a page. If the base is a page, URLs are relative to the page.
            If the base is a scheme, URLs must begin with their host.

    Raises:
        InvalidUrlError: ``base`` is neither a page's URL nor a scheme.
    """
    if scheme := _BARE_SCHEME.fullmatch(base):
        return lambda url: _with_scheme(url, scheme[1].lower())
    page = urls.parse(base)

    def complete(url: str) -> str:
        if _SCHEME.match(url):
            return url
        try:
            return urls.join(page, url).text
        except InvalidUrlError:
            # The Outcome shows the original text.
            return url

    return complete


def _with_scheme(url: str, scheme: str) -> str:
    if _SCHEME.match(url):
        return url
    if url.startswith("//"):
        return f"{scheme}:{url}"
    # A URL that is only a path has no host, so a scheme can't complete it.
    return url if url.startswith("/") else f"{scheme}://{url}"


def _path(value: object) -> str | None:
    """Return the name of a file as the list gives it; None if the list gives no name. The planner checks it."""
    return None if value is None or value == "" else str(value)


def _expected_hash(value: object, kind: HashKind) -> str | None:
    """Return the expected hash in the form of an `ImageRequest`, or None if the text is not a hash."""
    digits = value.strip().lower() if isinstance(value, str) else ""
    if len(digits) != DIGITS[kind] or not re.fullmatch("[0-9a-f]+", digits):
        return None
    return f"{kind}:{digits}"


def _refused(index: int, why: str, values: Mapping[str, object]) -> ImageRequest:
    return ImageRequest(index, "", values, refused=Refusal(Reason.INVALID_ROW, why))
