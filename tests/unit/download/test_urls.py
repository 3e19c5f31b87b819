"""URLs are parsed as in browsers, and displayed without secrets.

If a URL is refused, the message names the invalid part.
"""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.download.urls import MAX_LENGTH, Url, join, parse
from tasks.errors import InvalidUrlError
from tasks.redaction import redacted

_NORMAL = {
    "plain": ("http://a.example/b.jpg", "http://a.example/b.jpg"),
    "without a path": ("http://a.example", "http://a.example/"),
    "surrounding space": ("  \thttp://a.example/b\r\n", "http://a.example/b"),
    "upper-case scheme and host": ("HTTP://A.Example/B", "http://a.example/B"),
    "default port": ("http://a.example:80/", "http://a.example/"),
    "default port of https": ("https://a.example:443/", "https://a.example/"),
    "port of the other scheme": ("https://a.example:80/", "https://a.example:80/"),
    "empty port": ("http://a.example:/", "http://a.example/"),
    "port with zeros": ("http://a.example:08080/", "http://a.example:8080/"),
    "fragment": ("http://a.example/b#c?d", "http://a.example/b"),
    "query": ("http://a.example/b?c=d&e=f", "http://a.example/b?c=d&e=f"),
    "query without a path": ("http://a.example?c", "http://a.example/?c"),
    # An empty query keeps its question mark. Browsers send it, and a server may distinguish a URL with the mark from
    # one without.
    "empty query": ("http://a.example/b?", "http://a.example/b?"),
    "question mark in a query": ("http://a.example/b?c?d", "http://a.example/b?c?d"),
    "space": ("http://a.example/b c.jpg?d e", "http://a.example/b%20c.jpg?d%20e"),
    "letters beyond ASCII": ("http://a.example/ä.jpg?ö=ü", "http://a.example/%C3%A4.jpg?%C3%B6=%C3%BC"),
    "escaped already": ("http://a.example/%C3%A4%20%2f.jpg", "http://a.example/%C3%A4%20%2f.jpg"),
    "a lone percent": ("http://a.example/100%.jpg", "http://a.example/100%.jpg"),
    "quotes and angles": ('http://a.example/"<b>"', "http://a.example/%22%3Cb%3E%22"),
    "marks that are not escaped": ("http://a.example/!$&'()*+,;=:@~_-.", "http://a.example/!$&'()*+,;=:@~_-."),
    "brackets in a query": ("http://a.example/?a[]=1|2", "http://a.example/?a[]=1|2"),
    "backslashes": ("http:\\\\a.example\\b\\c.jpg", "http://a.example/b/c.jpg"),
    "too many slashes": ("http:////a.example/b", "http://a.example/b"),
    "IPv4 in one number": ("http://2130706433/", "http://127.0.0.1/"),
    "IPv4 in hexadecimal": ("http://0x7F.0.0.0x1/", "http://127.0.0.1/"),
    "IPv4 in one hexadecimal number": ("http://0x7f000001/", "http://127.0.0.1/"),
    "IPv4 in octal": ("http://0177.0.0.01/", "http://127.0.0.1/"),
    "short IPv4": ("http://127.1/", "http://127.0.0.1/"),
    "IPv4 of three numbers": ("http://10.1.258/", "http://10.1.1.2/"),
    "IPv4 of a bare 0x": ("http://0x/", "http://0.0.0.0/"),
    "IPv4 with a dot at its end": ("http://127.0.0.1./", "http://127.0.0.1/"),
    "IPv4 in wide digits": ("http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://127.0.0.1/"),
    "IPv4 between dots of another script": ("http://127。0。0。1/", "http://127.0.0.1/"),
    "escaped IPv4": ("http://%31%32%37.0.0.1/", "http://127.0.0.1/"),
    "escaped host": ("http://a%2Eex%61mple/", "http://a.example/"),
    "number that is not the last label": ("http://1.a.example/", "http://1.a.example/"),
    "doubled slash in the path": ("http://a.example//b", "http://a.example//b"),
    "international host": ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
    "sharp s is a letter of its own": ("http://faß.example/", "http://xn--fa-hia.example/"),
    "full-width host": ("http://\uff41.example/", "http://a.example/"),
    "full-width digits": ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/"),
    "underscore in the host": ("http://a_b.example/", "http://a_b.example/"),
    "trailing dot": ("http://a.example./b", "http://a.example./b"),
    "IPv6": ("http://[2001:DB8:0::1]:8080/b", "http://[2001:db8::1]:8080/b"),
    "userinfo": ("http://user:word@a.example/b", "http://a.example/b"),
    "userinfo with an at sign": ("http://user:wo@rd@a.example/b", "http://a.example/b"),
    "dot segments": ("http://a.example/b/./c/../d.jpg", "http://a.example/b/d.jpg"),
    "dot segments above the root": ("http://a.example/../../b.jpg", "http://a.example/b.jpg"),
    "dot segment at the end": ("http://a.example/b/..", "http://a.example/"),
    "escaped dot segments": ("http://a.example/b/%2e%2E/%2e/c.jpg", "http://a.example/c.jpg"),
    "dots that are not a segment": ("http://a.example/b/.../c..jpg", "http://a.example/b/.../c..jpg"),
    "dot segments in a query": ("http://a.example/b?c=/../d", "http://a.example/b?c=/../d"),
    "dash at the end of a label": ("http://a-.example/", "http://a-.example/"),
    "dash at the start of a label": ("http://-a.example/", "http://-a.example/"),
    "dashes in the third and fourth place": ("http://r3---sn-a.example/", "http://r3---sn-a.example/"),
    "underscores at both ends": ("http://_a_.example/", "http://_a_.example/"),
    "emoji": ("http://\U0001f600.example/", "http://xn--e28h.example/"),
    "emoji of two characters": ("http://\u2764\ufe0f.example/", "http://xn--qei.example/"),
    "unusual letter order": ("http://\u2f00.example/", "http://xn--4gq.example/"),
    "soft hyphen and a dash": ("http://☃.\u2f00\u00ad-/", "http://xn--n3h.xn----zn6a/"),
    "ASCII label that is not Punycode": ("http://xn--a.example/", "http://xn--a.example/"),
    "letters from right to left": ("http://\u05d0.example/", "http://xn--4db.example/"),
    "no slashes": ("http:a.example/b", "http://a.example/b"),
    "one slash": ("https:/a.example/b", "https://a.example/b"),
    "tab inside": ("http://a.exa\tmple/b\tc", "http://a.example/bc"),
    "line end inside": ("http://a.example/b\r\nHost: c", "http://a.example/bHost:%20c"),
    "control character": ("http://a.example/\x01\x7f", "http://a.example/%01%7F"),
    "controls around": ("\x00\x1fhttp://a.example/b\x1b", "http://a.example/b"),
    "brackets and pipes in a path": ("http://a.example/[b]|c", "http://a.example/[b]|c"),
    "apostrophe in a query": ("http://a.example/?b='c'", "http://a.example/?b=%27c%27"),
    "IPv4 in IPv6": ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
    "longest label": (f"http://{'a' * 63}.example/", f"http://{'a' * 63}.example/"),
    "name longer than a label": (f"http://{'a.' * 60}example/", f"http://{'a.' * 60}example/"),
}
_INVALID = {
    "empty": ("", "empty"),
    "only space": (" \r\n", "empty"),
    "too long": ("http://a.example/" + "b" * MAX_LENGTH, "longer than 8192"),
    "control character in the host": ("http://a\x01.example/", "host name is not valid"),
    "zero byte in the host": ("http://a.example\0/", "host name is not valid"),
    "not UTF-8": ("http://a.example/\ufffd", "not UTF-8"),
    "no scheme": ("a.example/b.jpg", "no scheme"),
    "no scheme but a port": ("a.example:80/b.jpg", "the scheme a.example is not supported"),
    "relative": ("//a.example/b.jpg", "no scheme"),
    "scheme that is not a word": ("1http://a.example", "no scheme"),
    "file": ("file:///etc/passwd", "the scheme file is not supported"),
    "data": ("data:image/png;base64,AAAA", "the scheme data is not supported"),
    "nothing after the scheme": ("http:", "no host"),
    "no host": ("http://", "no host"),
    "only a path": ("http:///", "no host"),
    "only brackets": ("http://[]/", "no host"),
    "userinfo without a host": ("http://user@/b", "no host"),
    "only a port": ("http://:80/b", "no host"),
    "port 0": ("http://a.example:0/", "the port is 0"),
    "port too large": ("http://a.example:65536/", "the port is invalid: the maximum is 65535"),
    "port far too large": (f"http://a.example:{'9' * 5000}/", "the port is invalid: the maximum is 65535"),
    "port that is not a number": ("http://a.example:b/", "the port is invalid: it is not a number"),
    "port in other digits": ("http://a.example:٨/", "the port is invalid: it is not a number"),
    "signed port": ("http://a.example:+80/", "the port is invalid: it is not a number"),
    "port with underscores": ("http://a.example:8_0/", "the port is invalid: it is not a number"),
    "no colon before the port": ("http://[::1]80/", "the port is invalid"),
    "five numbers": ("http://1.2.3.4.5/", "ends in a number, but is not an IPv4 address"),
    "number above a byte": ("http://1.2.3.256/", "ends in a number, but is not an IPv4 address"),
    "number above four bytes": ("http://4294967296/", "ends in a number, but is not an IPv4 address"),
    "first number above a byte": ("http://256.1/", "ends in a number, but is not an IPv4 address"),
    "not octal": ("http://08.1.1.1/", "ends in a number, but is not an IPv4 address"),
    "name that ends in a number": ("http://a.example.1/", "ends in a number, but is not an IPv4 address"),
    "hexadecimal end": ("http://a.example.0x1/", "ends in a number, but is not an IPv4 address"),
    "zone": ("http://[fe80::1%25eth0]/", "with a zone"),
    "escaped bytes in the host": ("http://%ff.example/", "its escaped bytes are not UTF-8"),
    "escaped slash in the host": ("http://a%2fb.example/", "host name is not valid"),
    "escaped at sign in the host": ("http://a%40b.example/", "host name is not valid"),
    "space in the host": ("http://a b.example/", "host name is not valid"),
    "percent in the host": ("http://a%20b.example/", "host name is not valid"),
    "label too long": (f"http://{'a' * 64}.example/", "host name is not valid"),
    "empty label": ("http://a..example/", "host name is not valid"),
    "empty first label": ("http://.example/", "host name is not valid"),
    "two trailing dots": ("http://a.example../", "host name is not valid"),
    "only a dot": ("http://./", "host name is not valid"),
    "letters without a script": ("http://a\ufdd0.example/", "host name is not valid"),
    "joiner without a letter": ("http://\u200d.example/", "host name is not valid"),
    "number before its trailing dot": ("http://1.2.3.4.5./", "ends in a number, but is not an IPv4 address"),
    "host too long": (f"http://{'a.' * 127}example/", "host name is not valid"),
    "slash in disguise": ("http://a℀b.example/", "host name is not valid"),
    "no IPv6 address": ("http://[::g]/", "host"),
    "IPv6 without its end": ("http://[::1/", "its bracket is not closed"),
    "IPv6 without brackets": ("http://::1/", "which needs brackets"),
    "half a character": ("http://a.example/\ud800", "not UTF-8"),
}
_JOINED = {
    "absolute": ("http://b.example/c", "http://b.example/c"),
    "path": ("/c.jpg", "https://a.example/c.jpg"),
    "relative path": ("c.jpg", "https://a.example/d/c.jpg"),
    "parent": ("../c.jpg", "https://a.example/c.jpg"),
    "scheme of the base": ("//b.example/c", "https://b.example/c"),
    "query alone": ("?x=1", "https://a.example/d/e?x=1"),
    "backslashes before a host": ("\\\\b.example\\c", "https://b.example/c"),
    "backslash in a query": ("/c?d\\e", "https://a.example/c?d\\e"),
    "UTF-8 decoded as Latin-1": ("/ä".encode().decode("latin-1"), "https://a.example/%C3%A4"),
    "Latin-1": ("/\xe4", "https://a.example/%C3%A4"),
    "space around": (" /c ", "https://a.example/c"),
    "space inside": ("/c d", "https://a.example/c%20d"),
    "fragment": ("/c#d", "https://a.example/c"),
    "dot segments": ("/c/../d/./e", "https://a.example/d/e"),
    "above the root": ("../../../c", "https://a.example/c"),
    "escaped dot segments": ("%2e%2e/c", "https://a.example/c"),
    "dot segments of another host": ("//b.example/c/../d", "https://b.example/d"),
    "scheme without slashes": ("https:c", "https://a.example/d/c"),
    "other scheme without slashes": ("http:b.example", "http://b.example/"),
    "tab and line end": ("/c\t\r\nd", "https://a.example/cd"),
    "mixed slashes before a host": ("/\\b.example/c", "https://b.example/c"),
    "dash at the end of a label": ("http://b-.example/", "http://b-.example/"),
    "IPv4 in one number": ("http://2130706433/", "http://127.0.0.1/"),
    "emoji": ("http://\U0001f600.example/".encode().decode("latin-1"), "http://xn--e28h.example/"),
}
_MASKED = {
    "nothing to hide": ("http://a.example/b?c=d", "http://a.example/b?c=d"),
    "userinfo": ("http://user:word@a.example/b", "http://***@a.example/b"),
    "user alone": ("https://user@a.example/b", "https://***@a.example/b"),
    "userinfo with an at sign": ("http://user:wo@rd@a.example/b", "http://***@a.example/b"),
    "at sign in the path": ("http://a.example/@user/b.jpg", "http://a.example/@user/b.jpg"),
    "at sign in the query": ("http://a.example/?b=c@d", "http://a.example/?b=c@d"),
    "broker": ("redis://:word@redis:6379/0", "redis://***@redis:6379/0"),
    "token": ("http://a.example/b?token=x&c=d", "http://a.example/b?token=***&c=d"),
    "second parameter": ("http://a.example/b?c=d&access_token=x", "http://a.example/b?c=d&access_token=***"),
    "upper case": ("http://a.example/b?TOKEN=x", "http://a.example/b?TOKEN=***"),
    "S3": (
        "https://b.s3.example/c?X-Amz-Credential=k%2F2026&X-Amz-Date=1&X-Amz-Signature=f00&X-Amz-Security-Token=t",
        "https://b.s3.example/c?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***&X-Amz-Security-Token=***",
    ),
    "Azure": ("https://a.example/b?sv=1&sig=x%3D", "https://a.example/b?sv=1&sig=***"),
    "semicolon": ("http://a.example/b?c=d;password=x;e=f", "http://a.example/b?c=d;password=***;e=f"),
    "API key": ("http://a.example/b?api-key=x&apikey=y&key=z", "http://a.example/b?api-key=***&apikey=***&key=***"),
    "only looks alike": ("http://a.example/b?monkey=x&author=y", "http://a.example/b?monkey=x&author=y"),
    "value with an equals sign": ("http://a.example/b?auth=x==&c=d", "http://a.example/b?auth=***&c=d"),
    "control characters": ("http://a.example/\x1b[31mb", "http://a.example/\ufffd[31mb"),
    "within a sentence": (
        "the redirect to http://user:word@a.example/?sig=x is a loop",
        "the redirect to http://***@a.example/?sig=***",
    ),
    "two within a sentence": (
        "http://u:word@a.example/ leads to https://u:word@b.example/",
        "http://***@a.example/ leads to https://***@b.example/",
    ),
    "slash in the password": ("http://user:wo/rd@a.example/b", "http://***@a.example/b"),
    "slash and at sign in the password": ("http://user:wo/r@d@a.example/b", "http://***@a.example/b"),
    "hash in the password": ("http://user:wo#rd@a.example/b", "http://***@a.example/b"),
    "port and an at sign in the path": ("http://a.example:8080/@b", "http://a.example:8080/@b"),
    "IPv6 and an at sign in the path": ("http://[::1]/@b", "http://[::1]/@b"),
    "userinfo without a scheme": ("//user:word@a.example/b", "//***@a.example/b"),
    "Google": (
        "https://storage.example/b?X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Signature=c",
        "https://storage.example/b?X-Goog-Algorithm=a&X-Goog-Credential=***&X-Goog-Signature=***",
    ),
    "CloudFront": (
        "https://a.example/b?Expires=1&Policy=p&Signature=s&Key-Pair-Id=K",
        "https://a.example/b?Expires=1&Policy=***&Signature=***&Key-Pair-Id=K",
    ),
    "S3, version 2": (
        "https://a.example/b?AWSAccessKeyId=A&Expires=1&Signature=s",
        "https://a.example/b?AWSAccessKeyId=***&Expires=1&Signature=***",
    ),
    "Akamai": ("https://a.example/b?__token__=t&hdnts=x", "https://a.example/b?__token__=***&hdnts=***"),
    "imgix": (f"https://a.example/b?w=1&s={'0a' * 16}", "https://a.example/b?w=1&s=***"),
    "size": ("https://a.example/b?s=200", "https://a.example/b?s=200"),
    "session": (
        "https://a.example/b?PHPSESSIONID=x&sid=y&jwt=z",
        "https://a.example/b?PHPSESSIONID=***&sid=***&jwt=***",
    ),
    "escaped name": (
        "http://a.example/b?%74oken=x&X%2DAmz%2DSignature=y",
        "http://a.example/b?%74oken=***&X%2DAmz%2DSignature=***",
    ),
    "escaped name of nothing secret": ("http://a.example/b?%63=x", "http://a.example/b?%63=x"),
    "parameter in the fragment": ("http://a.example/b#access_token=x", "http://a.example/b#access_token=***"),
    "control character in a name": ("http://a.example/b?tok\x00en=x", "http://a.example/b?tok\ufffden=x"),
    "line end": ("http://a.example/\r\n12:00 success", "http://a.example/\ufffd\ufffd12:00 success"),
    "controls of Latin-1": ("http://a.example/\x9b31m\x85\x90", "http://a.example/\ufffd31m\ufffd\ufffd"),
    "overrides of direction": (
        "http://a.example/\u202egpj.exe\u202c\u2066\u2069\u200f\u061c",
        "http://a.example/\ufffdgpj.exe\ufffd\ufffd\ufffd\ufffd\ufffd",
    ),
    "separators of lines": ("http://a.example/\u2028\u2029", "http://a.example/\ufffd\ufffd"),
    "no width": ("http://a.example/\u200b\ufeff\u2060", "http://a.example/\ufffd\ufffd\ufffd"),
    "half a character": ("http://a.example/\ud800", "http://a.example/\ufffd"),
    "letters beyond ASCII": ("http://a.example/ä\u4e2d", "http://a.example/ä\u4e2d"),
    "no URL": ("nothing here", "nothing here"),
    "userinfo behind backslashes": ("http:\\\\user:word@a.example\\b", "http:\\\\***@a.example\\b"),
    "userinfo behind many slashes": ("http:///user:word@a.example/b", "http:///***@a.example/b"),
}


@pytest.mark.parametrize(("url", "normal"), _NORMAL.values(), ids=_NORMAL)
def test_normal_form(url: str, normal: str) -> None:
    """A valid URL has one normal form."""
    assert parse(url).text == normal


@pytest.mark.parametrize(("url", "part"), _INVALID.values(), ids=_INVALID)
def test_invalid_url_names_the_wrong_part(url: str, part: str) -> None:
    """An invalid URL is refused, and the message names the invalid part."""
    with pytest.raises(InvalidUrlError, match=part):
        parse(url)


def test_parts() -> None:
    """A parsed URL holds the parts for a request. The userinfo is not in the URL's text."""
    assert parse("https://user:wo%40rd@[::1]:8443/b c?d#e") == Url("https", "::1", 8443, "/b%20c?d", "user:wo%40rd")


@pytest.mark.parametrize(
    "url",
    ["http://user:secret/word@a.example/", "http://user:secret#word@a.example/", "http://a.example:secret/"],
    ids=["slash in the password", "hash in the password", "port"],
)
def test_message_hides_a_password(url: str) -> None:
    """If a password has a character that ends the host, the password is parsed as a port.

    The error must not quote the password.
    """
    with pytest.raises(InvalidUrlError) as caught:
        parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("location", "target"), _JOINED.values(), ids=_JOINED)
def test_join(location: str, target: str) -> None:
    """A redirect leads to the same URL as in a browser, and its target is normalised too."""
    assert join(parse("https://user:word@a.example/d/e?f"), location) == parse(target)


@pytest.mark.parametrize(
    "location",
    ["http://[", "ftp://a.example/", "https://:80/", "\ud800", "//b.example:x/", "//[::1", "javascript:alert(1)"],
)
def test_join_refuses_invalid_targets(location: str) -> None:
    """A redirect to an invalid URL raises InvalidUrlError, and no other exception."""
    with pytest.raises(InvalidUrlError):
        join(parse("http://a.example/"), location)


def test_join_bounds_the_length() -> None:
    """A relative redirect extends the path, unless the URL already has the maximum length."""
    first = join(parse("http://a.example/" + "b" * (MAX_LENGTH - 100) + "/"), "c" * 200 + "/")
    assert len(first.text) > MAX_LENGTH
    with pytest.raises(InvalidUrlError, match="longer than 8192"):
        join(first, "d")
    assert join(first, "/d").target == "/d"


@pytest.mark.parametrize(("url", "shown"), _MASKED.values(), ids=_MASKED)
def test_masks_secrets(url: str, shown: str) -> None:
    """A URL is displayed without userinfo, secret parameters and control characters."""
    assert redacted(url) == shown


@given(st.text(max_size=60) | st.text(st.sampled_from("ab:/@?&=%#\x1b\u202e;.\\"), max_size=60))
def test_displayed_text_is_printable(text: str) -> None:
    """Displayed text of a list or a server has no control characters, and masking it again changes nothing."""
    shown = redacted(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "?a",
        "token",
        "?token",
        "&s=",
        "?%",
        "?%74oken=",
        "http://a:b",
        "@http://a:b",
        "a.",
        "a:",
        "//",
        "\\",
        "s:s@",
    ],
)
def test_masking_time_is_bounded(text: str) -> None:
    """A text that repeats the redacted patterns up to the maximum length is still redacted quickly."""
    started = time.monotonic()
    redacted("http://a.example/?=@%" + text * (MAX_LENGTH // len(text)) + "=@%")
    assert time.monotonic() - started < 0.5


_anything = st.text(st.characters(), max_size=40)
_likely = st.builds("{}{}{}{}".format, st.sampled_from(["http:", "https://", "http://a", "//", ""]), *[_anything] * 3)


@given(_anything | _likely)
def test_parse_raises_only_invalid_url(url: str) -> None:
    """Any text is parsed or refused, and parsing the result again changes nothing."""
    try:
        parsed = parse(url)
    except InvalidUrlError:
        return
    again = parse(parsed.text)
    assert again.text == parsed.text
    assert parsed.text.isascii()


@given(st.text(st.sampled_from("ab/:@?#&=\\[]. %é"), max_size=20))
def test_normal_form_is_stable(rest: str) -> None:
    """Parsing a normal form again gives the same parts, except for userinfo, which a normal form leaves out."""
    try:
        first = parse(f"http://{rest}")
    except InvalidUrlError:
        # Most such texts are invalid. If they were rejected, Hypothesis would report that it rejects too many.
        return
    second = parse(first.text)
    assert (second.scheme, second.host, second.port, second.target) == (
        first.scheme,
        first.host,
        first.port,
        first.target,
    )
