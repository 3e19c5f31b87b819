"""The environment is read in one place and validated. Errors name the variable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from config import SettingsError, limits
from config.settings import Settings, settings, unknown_variables


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test an environment without our variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGEFLEET_{name.upper()}", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_defaults_allow_nothing_more() -> None:
    """Without variables, only public addresses are allowed, and workers may write to no folder."""
    found = settings()
    assert (found.broker_url, found.allow_networks, found.store_roots, found.ca_bundle) == (None, (), (), None)
    assert found.prefetch == limits.PREFETCH


def test_metrics_are_for_this_machine() -> None:
    """Without variables, nothing is served, and a port alone serves metrics to this machine only."""
    found = settings()
    assert found.metrics_port is None
    assert found.metrics_address.is_loopback


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        (" 10.0.0.0/8 , [::1]:8080,,images.internal:81 ", ("10.0.0.0/8", "[::1]:8080", "images.internal:81")),
        ("", ()),
        (" , ", ()),
    ],
)
def test_lists_are_split_by_commas(monkeypatch: pytest.MonkeyPatch, value: str, entries: tuple[str, ...]) -> None:
    """List entries are separated by commas. Empty entries, and spaces around entries, are ignored."""
    monkeypatch.setenv("IMAGEFLEET_ALLOW_NETWORKS", value)
    assert settings().allow_networks == entries


def test_store_roots_are_real_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A root that is a link is resolved, because it is compared with a run's resolved folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("IMAGEFLEET_STORE_ROOTS", f"{tmp_path}/link/,{tmp_path}/later")
    assert settings().store_roots == (tmp_path / "real", tmp_path / "later")


@pytest.mark.parametrize(
    "folders",
    [
        ["/a,/b"],
        ["/a", "/b,c"],
        ["/ends with a space ", "/[x]", '/"quoted"', "/back\\slash", "/line\nfeed"],
        ["/\udcff,"],
        [],
    ],
)
def test_store_roots_may_be_a_json_array(monkeypatch: pytest.MonkeyPatch, folders: list[str]) -> None:
    """A JSON array can have every path; a comma in a path does not give another root."""
    monkeypatch.setenv("IMAGEFLEET_STORE_ROOTS", json.dumps(folders))
    assert settings().store_roots == tuple(map(Path, folders))


_WRONG = {
    "not an array": ("STORE_ROOTS", '["/data"', "not a JSON array"),
    "numbers": ("STORE_ROOTS", "[1]", "not a JSON array"),
    "relative root in an array": ("STORE_ROOTS", '["/data", "b"]', "b is not an absolute path"),
    "relative root": ("STORE_ROOTS", "/data,data", "data is not an absolute path"),
    "prefetch not a number": ("PREFETCH", "many", "integer"),
    "prefetch too small": ("PREFETCH", "0", "greater than or equal to 1"),
    "prefetch too large": ("PREFETCH", "65", "less than or equal to 64"),
}


@pytest.mark.parametrize(("name", "value", "message"), _WRONG.values(), ids=_WRONG)
def test_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    """An error about an invalid value names the variable and the problem."""
    monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
    with pytest.raises(SettingsError, match=f"^IMAGEFLEET_{name}: .*{message}"):
        settings()


_URL = "rediss://user@redis.example:6380/0"
_BROKERS = {
    "URL alone": ({"URL": "redis+socket:///run/redis.sock"}, "redis+socket:///run/redis.sock"),
    "CA": ({"URL": _URL, "CA_FILE": "/a b.pem"}, f"{_URL}?ssl_cert_reqs=required&ssl_ca_certs=/a+b.pem"),
    "CA in the URL too": (
        {"URL": f"{_URL}?ssl_ca_certs=/url.pem", "CA_FILE": "/ca.pem"},
        f"{_URL}?ssl_cert_reqs=required&ssl_ca_certs=/url.pem",
    ),
    "verification off": (
        {"URL": f"{_URL}?ssl_cert_reqs=none", "CA_FILE": "/ca.pem"},
        f"{_URL}?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
    ),
    "password": (
        {"URL": _URL, "CA_FILE": "/ca.pem", "PASSWORD_FILE": "p@ss/w:rd #1%"},
        "rediss://user:p%40ss%2Fw%3Ard%20%231%25@redis.example:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem",
    ),
}


@pytest.mark.parametrize(("variables", "broker"), _BROKERS.values(), ids=_BROKERS)
def test_broker_from_several_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], broker: str
) -> None:
    """The broker's URL is combined from all variables, but values in the URL itself take precedence."""
    if "PASSWORD_FILE" in variables:
        (tmp_path / "password").write_text(variables["PASSWORD_FILE"] + "\n")
        variables = {**variables, "PASSWORD_FILE": str(tmp_path / "password")}
    for name, value in variables.items():
        monkeypatch.setenv(f"IMAGEFLEET_BROKER_{name}", value)
    assert settings().broker == broker


def test_refuses_a_ca_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA is refused if the URL has no TLS, because the connection would be neither verified nor encrypted."""
    monkeypatch.setenv("IMAGEFLEET_BROKER_URL", "redis://redis.example/0")
    monkeypatch.setenv("IMAGEFLEET_BROKER_CA_FILE", "/ca.pem")
    with pytest.raises(SettingsError, match="IMAGEFLEET_BROKER_CA_FILE is set"):
        _ = settings().broker


def test_sentinel_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Sentinels' password is put where the client reads it.

    If the URL has no Sentinels, their password is refused.
    """
    (tmp_path / "word").write_text("se&cret\n")
    monkeypatch.setenv("IMAGEFLEET_BROKER_SENTINEL_PASSWORD_FILE", str(tmp_path / "word"))
    for url, separator in (("sentinel://a/0;sentinel://b/0", "?"), ("sentinel://a/0?master_name=m", "&")):
        settings.cache_clear()
        monkeypatch.setenv("IMAGEFLEET_BROKER_URL", url)
        assert settings().broker == f"{url}{separator}sentinel_password=se%26cret"
    settings.cache_clear()
    monkeypatch.setenv("IMAGEFLEET_BROKER_URL", "redis://a/0")
    with pytest.raises(SettingsError, match="is not a sentinel:// URL"):
        _ = settings().broker


@pytest.mark.parametrize(
    "name",
    [
        "IMAGEFLEET_BROKER_PASSWORD_FILE",
        "IMAGEFLEET_BROKER_SENTINEL_PASSWORD_FILE",
        "IMAGEFLEET_BROKER_CA_FILE",
    ],
)
def test_refuses_a_broker_file_without_a_url(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A password or CA without a URL is an error. No local fleet is started instead."""
    monkeypatch.setenv(name, "/nope")
    with pytest.raises(SettingsError, match=f"^{name} is set, but IMAGEFLEET_BROKER_URL is not;"):
        _ = settings().broker


def test_ignores_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown variables, and variables without our prefix, are ignored."""
    before = settings()
    settings.cache_clear()
    monkeypatch.setenv("IMAGEFLEET_NO_SUCH_THING", "1")
    monkeypatch.setenv("STORE_ROOTS", "/")
    assert settings() == before


def test_settings_are_read_once_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a process has read the settings, they do not change."""
    first = settings()
    monkeypatch.setenv("IMAGEFLEET_ALLOW_NETWORKS", "10.0.0.0/8")
    assert settings() is first
    with pytest.raises(ValidationError, match="frozen"):
        first.prefetch = 5  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    """Each variable has a sentence about its purpose."""
    described = {name: field.description or "" for name, field in Settings.model_fields.items()}
    assert all(text.endswith(".") for text in described.values()), described


def test_limits_leave_time_for_reserved_tasks() -> None:
    """While a task waits behind reserved tasks or runs until its deadline, Redis does not redeliver its message."""
    # Running tasks count as reserved tasks. A quarter of the visibility timeout is kept as a safety margin.
    assert limits.MAX_DEADLINE * limits.PREFETCH <= limits.VISIBILITY_TIMEOUT * 3 / 4


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("IMAGEFLEET_ALOW_NETWORKS", ["IMAGEFLEET_ALOW_NETWORKS (did you mean IMAGEFLEET_ALLOW_NETWORKS?)"]),
        ("imagefleet_store_root", ["imagefleet_store_root (did you mean IMAGEFLEET_STORE_ROOTS?)"]),
        ("IMAGEFLEET_XYZ", ["IMAGEFLEET_XYZ"]),
        ("imagefleet_prefetch", []),
        ("IMAGEFLEET_OWNED_BY", []),
        ("OTHER", []),
    ],
)
def test_suggests_the_variable_meant(variable: str, found: list[str]) -> None:
    """An unknown name with our prefix is reported together with the closest known name. An empty value is ignored."""
    assert unknown_variables({variable: "1"}) == found
    assert unknown_variables({variable: ""}) == []
