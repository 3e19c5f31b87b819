"""Cases of unusual URLs in lists and redirects: dot segments, host names, characters that need escaping."""

from __future__ import annotations

from tests.answers.case import Case, ReceivedRequest, answer, by_path, redirect

_OK = answer()


def in_list(name: str, title: str, url: str, target: str) -> Case:
    """Return a case of a URL in a list. The server knows only this request target."""
    return Case(
        f"url-{name}",
        title,
        lambda received: _OK if received.target == target else answer(b"not here", status="404 Not Found"),
        urls=(url,),
    )


def redirected(name: str, title: str, location: str) -> Case:
    """Return a case of a redirect from ``/a/image`` to ``/there``."""
    served = by_path({"/a/image": redirect(location), "/there": _OK})
    return Case(f"url-redirect-{name}", title, served, urls=("{server}/a/image",))


def host(name: str, title: str, written: str, ascii_host: str, scheme: str = "http://") -> Case:
    """Return a case of a host name. The clients fetch the URL through a proxy, so the host name needs no DNS."""
    target = f"http://{ascii_host}/image"

    def served(received: ReceivedRequest) -> bytes:
        # The letter case of a host is irrelevant.
        return _OK if received.target.lower() == target else answer(b"not here", status="404 Not Found")

    return Case(f"url-host-{name}", title, served, urls=(f"{scheme}{written}/image",), proxied=True)


CASES = (
    in_list("dots", "`/a/../image` in the list", "{server}/a/../image", "/image"),
    in_list("dot", "`/./image` in the list", "{server}/./image", "/image"),
    in_list("dots-escaped", "`/a/%2e%2E/image` in the list", "{server}/a/%2e%2E/image", "/image"),
    in_list("dots-root", "`/../../image` in the list", "{server}/../../image", "/image"),
    in_list("space", "a space in the path", "{server}/my image", "/my%20image"),
    in_list("letters", "letters beyond ASCII in path and query", "{server}/ä?ö", "/%C3%A4?%C3%B6"),
    in_list("brackets", "brackets in the path", "{server}/[image]", "/[image]"),
    in_list("percent", "a percent sign without an escape", "{server}/100%/image", "/100%/image"),
    in_list("query-empty", "an empty query: `/image?`", "{server}/image?", "/image?"),
    in_list("fragment", "a fragment", "{server}/image#part", "/image"),
    in_list("tab", "a tab in the path", "{server}/im\tage", "/image"),
    in_list("backslash", "a backslash in the path", "{server}/a\\image", "/a/image"),
    redirected("dots", "a redirect to `/a/./b/../../there`", "/a/./b/../../there"),
    redirected("dots-relative", "a redirect to `../there`", "../there"),
    redirected("dots-escaped", "a redirect to `/a/%2e%2e/there`", "/a/%2e%2e/there"),
    redirected("dots-root", "a redirect to `../../../there`", "../../../there"),
    redirected("backslash", "a redirect to `\\there`", "\\there"),
    redirected("tab", "a redirect with a tab inside", "/the\tre"),
    host("dash-end", "`http://a-.example/`", "a-.example", "a-.example"),
    host("dash-start", "`http://-a.example/`", "-a.example", "-a.example"),
    host("dashes", "`http://r3---sn-a.example/`", "r3---sn-a.example", "r3---sn-a.example"),
    host("underscores", "`http://_a_.example/`", "_a_.example", "_a_.example"),
    host("upper-case", "a host in upper case", "A.EXAMPLE", "a.example"),
    host("dot", "a host with a dot at its end", "a.example.", "a.example."),
    host("letters", "a host with letters beyond ASCII", "bücher.example", "xn--bcher-kva.example"),
    host("sharp-s", "a host with ß, a letter of its own", "faß.example", "xn--fa-hia.example"),
    host("emoji", "a host with an emoji", "\U0001f600.example", "xn--e28h.example"),
    host("wide", "a host in full-width letters", "\uff41.example", "a.example"),
    host("escaped", "an escaped host: `http://%61.example/`", "%61.example", "a.example"),
    host("one-slash", "`http:/a.example/`", "a.example", "a.example", "http:/"),
    host("no-slash", "`http:a.example/`", "a.example", "a.example", "http:"),
    host("backslashes", "`http:\\\\a.example/`", "a.example", "a.example", "http:\\\\"),
)
