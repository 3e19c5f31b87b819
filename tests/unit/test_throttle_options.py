"""The options for hosts: which limit a host has, and which limits are not valid."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tasks.throttle_options import HostLimit, HostScope, RobotsPolicy, ThrottleOptions

_WIKIMEDIA, _UPLOAD = HostLimit(4, 2.5), HostLimit(2)
_OPTIONS = ThrottleOptions(
    HostLimit(8),
    HostScope.DOMAIN,
    (("wikimedia.org", _WIKIMEDIA), ("upload.wikimedia.org", _UPLOAD), ("192.0.2.7", HostLimit(1))),
    adaptive=False,
    robots=RobotsPolicy.OBEY,
)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("wikimedia.org", _WIKIMEDIA),
        ("Commons.Wikimedia.org.", _WIKIMEDIA),
        ("upload.wikimedia.org", _UPLOAD),
        ("a.upload.wikimedia.org", _UPLOAD),
        ("notwikimedia.org", HostLimit(8)),
        ("org", HostLimit(8)),
        ("192.0.2.7", HostLimit(1)),
        ("2001:db8::7", HostLimit(8)),
    ],
)
def test_longest_override_that_covers_a_host_decides(name: str, limit: HostLimit) -> None:
    """An override covers a name and its subdomains. All other hosts have the run's limit."""
    assert _OPTIONS.limit_for(name, 443) == limit
    assert ThrottleOptions().limit_for(name, 443) == HostLimit(16, None)


def test_slower_rate_for_one_host() -> None:
    """A rate for one host keeps the host's other limits, and never replaces a lower rate."""
    slowed = _OPTIONS.slowed("Upload.Wikimedia.org.", 443, 0.1)
    assert slowed.limit_for("upload.wikimedia.org", 443) == HostLimit(_UPLOAD.concurrency, 0.1)
    assert slowed.limit_for("wikimedia.org", 443) == _WIKIMEDIA
    assert slowed.slowed("upload.wikimedia.org", 443, 5.0) is slowed
    assert ThrottleOptions().slowed("a.example", 80, 2.0).limit_for("a.example", 80) == HostLimit(16, 2.0)


def test_options_survive_json() -> None:
    """The options come back from JSON equal, and fields of a later version are ignored."""
    value = json.loads(json.dumps(asdict(_OPTIONS)))
    value["later"] = value["limit"]["later"] = 1
    back = ThrottleOptions.from_json(value)
    assert back == _OPTIONS
    assert isinstance(back.scope, HostScope)
    assert isinstance(back.robots, RobotsPolicy)
    assert ThrottleOptions.from_json({}) == ThrottleOptions()


@pytest.mark.parametrize(("concurrency", "rate"), [(0, None), (-1, None), (1, 0.0), (1, -2.0), (1, float("nan"))])
def test_limit_without_any_request_is_refused(concurrency: int, rate: float | None) -> None:
    """A limit that would let no request through is an error, because its host's images would wait forever."""
    with pytest.raises(ValueError, match="a host"):
        HostLimit(concurrency, rate)


def test_override_with_a_port_covers_only_this_port() -> None:
    """A name with a port comes before the name alone, also below a domain; other ports have the name's limit."""
    with_port, name = HostLimit(1, 1.0), HostLimit(2, 2.0)
    options = ThrottleOptions(
        overrides=(("127.0.0.1:8765", with_port), ("a.example", name), ("a.example:81", with_port))
    )
    assert options.limit_for("127.0.0.1", 8765) == with_port
    assert options.limit_for("127.0.0.1", 8766) == HostLimit()
    assert options.limit_for("b.a.example", 81) == with_port
    assert options.limit_for("b.a.example", 80) == name
