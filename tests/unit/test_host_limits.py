"""The file of limits for single hosts: what it may contain, and what the errors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.host_limits import read_host_limits
from tasks.errors import UsageError
from tasks.throttle_options import HostLimit, ThrottleOptions

_DEFAULT = HostLimit(16, 5.0)
_ROOT = Path(__file__).parents[2]


def read(folder: Path, text: str) -> dict[str, HostLimit]:
    """Return the limits in a file with this text."""
    path = folder / "hosts.toml"
    path.write_text(text, encoding="utf-8")
    return dict(read_host_limits(path, _DEFAULT))


def test_missing_values_are_those_of_the_command(tmp_path: Path) -> None:
    """Each table gives its own values, and the command gives the others. Case and a last dot make no difference."""
    assert read(tmp_path, '["A.example."]\nconcurrency = 2\n["b.example"]\nrate = 1\n["c.example"]\n') == {
        "a.example": HostLimit(2, 5.0),
        "b.example": HostLimit(16, 1),
        "c.example": _DEFAULT,
    }
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a", "Expected ']'"),
        ('["https://a.example"]\n', "'https://a.example' is not a host name"),
        ('["a.example/b"]\n', "'a.example/b' is not a host name"),
        ('[""]\n', "'' is not a host name"),
        ("[a.example]\nrate = 1\n", "'a' is not a table with limits; perhaps the host's name has no quotation marks"),
        ("rate = 1\n", "'rate' is not a table with limits"),
        ('["a.example"]\nspeed = 1\n', "the table of a.example has an unknown value: speed"),
        ('["a.example"]\nconcurrency = 1.5\n', "a.example: concurrency is not a whole number: 1.5"),
        ('["a.example"]\nconcurrency = true\n', "a.example: concurrency is not a whole number: True"),
        ('["a.example"]\nconcurrency = 0\n', "a.example: a host needs at least one request at once, not 0"),
        ('["a.example"]\nrate = "1"\n', "a.example: rate is not a number: '1'"),
        ('["a.example"]\nrate = 0\n', "a.example: a host's rate must be above 0 requests per second, not 0"),
        ('["a.example"]\nrate = nan\n', "a.example: a host's rate must be above 0 requests per second, not nan"),
    ],
)
def test_invalid_file_is_refused(text: str, why: str, tmp_path: Path) -> None:
    """The error names the file, the host and the value, and the hint shows how to write a table."""
    with pytest.raises(UsageError) as error:
        read(tmp_path, text)
    assert str(tmp_path / "hosts.toml") in error.value.what
    assert why in error.value.why
    assert error.value.hint


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A missing file and bytes that are not UTF-8 are reported as such."""
    with pytest.raises(UsageError, match="No such file or directory"):
        read_host_limits(tmp_path / "none.toml", _DEFAULT)
    (tmp_path / "latin.toml").write_bytes(b'["\xe9.example"]\n')
    with pytest.raises(UsageError, match="can't decode byte"):
        read_host_limits(tmp_path / "latin.toml", _DEFAULT)


def test_example_can_be_used() -> None:
    """The file in ``config/`` limits the hosts that it names, and their subdomains."""
    overrides = read_host_limits(_ROOT / "config" / "host-limits.toml", HostLimit())
    options = ThrottleOptions(overrides=overrides)
    assert options.limit_for("upload.wikimedia.org", 443) == HostLimit(2, 2.0)
    assert options.limit_for("live.staticflickr.com", 443) == HostLimit(4, 10.0)
    assert options.limit_for("a.example", 443) == HostLimit()
