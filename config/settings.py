"""Settings from the environment. No other module reads the environment.

With these variables, a worker's operator limits the addresses and folders that the worker may use. No message from the
queue can extend a worker's limits. The variable of the field ``name`` is ``IMAGEFLEET_NAME``. A variable with several
entries separates them with commas.

To add a setting, add a field and its description here. Pass the value as an argument to the module that uses it. Then
run ``make docs``, which writes ``docs/settings.md`` from the descriptions.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import Field, IPvAnyAddress, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import SettingsError, limits
from config.locations import StoreUrl, parse_location, resolved

REDIS_CONF = Path(__file__).with_name("redis.conf")
FLOWER_CONF = Path(__file__).with_name("flower.py")
_PREFIX = "IMAGEFLEET_"
#: The variables that only `config/entrypoint.sh` reads, named without the prefix.
_ENTRYPOINT_NAMES = ("OWNED_BY",)


class Settings(BaseSettings):
    """The validated settings from the environment, as a frozen value."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, env_ignore_empty=True)

    broker_url: str | None = Field(
        None,
        description="URL of the Redis server for the tasks: redis://, rediss://, redis+socket://, or sentinel:// for a "
        "set of [Sentinels](many-machines.md#redis-with-sentinel). If it is not set, a worker uses "
        "redis://localhost:6379/0, and a command starts a local fleet.",
    )
    broker_password_file: Path | None = Field(
        None, description="File with the broker's password. It keeps the password out of the URL and the environment."
    )
    broker_sentinel_password_file: Path | None = Field(
        None,
        description="File with the password of the Sentinels in a sentinel:// broker URL, if they have one.",
    )
    broker_ca_file: Path | None = Field(
        None,
        description="PEM file with the CA certificates that signed the certificate of a rediss:// broker. If it is "
        "set, the URL needs neither ssl_cert_reqs nor ssl_ca_certs.",
    )
    allow_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Networks, addresses or host names, each with an optional :port, that a worker may connect to in "
        "addition to public addresses.",
    )
    deny_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Networks, addresses or host names that a worker may not connect to, in the same form. A host name "
        "includes its subdomains. Denied entries take precedence over allowed ones.",
    )
    proxy: SecretStr | None = Field(
        None,
        description="HTTP proxy for all image downloads of a worker: http://[user:password@]host:port; the default "
        "port is 80. The proxy resolves host names. So the proxy, not the worker, decides which addresses are "
        "allowed ([Proxies](security.md#proxies)). HTTP_PROXY, HTTPS_PROXY and NO_PROXY are ignored.",
    )
    proxy_password_file: Path | None = Field(
        None, description="File with the proxy's password. It keeps the password out of the URL and the environment."
    )
    store_roots: Annotated[tuple[Path | StoreUrl, ...], NoDecode] = Field(
        (),
        description="Folders that a worker may write to, including subfolders: absolute paths, or URLs of "
        "[object stores](object-stores.md) such as s3://bucket/prefix. If a path has a comma, write the folders as a "
        "JSON array. A worker needs at least one to start.",
    )
    ca_bundle: Path | None = Field(
        None, description="PEM file with the CA certificates to trust for https instead of the default ones."
    )
    allow_insecure_tls: bool = Field(
        False,
        description="Whether runs with `--insecure` may fetch from https servers that fail verification or use a TLS "
        "version before 1.2. This does not apply to Redis.",
    )
    contact: str | None = Field(
        None,
        pattern=r"^[\x21-\x27\x2a-\x7e]+$",
        description="Contact for the owners of images, shown in a worker's User-Agent: a URL or mailto: address.",
    )
    task_events: bool = Field(
        True,
        description="Whether workers send Celery's task events for Flower. With `off`, workers send up to three "
        "messages fewer per image.",
    )
    metrics_port: int | None = Field(
        None,
        ge=int(limits.PORT.least),
        le=int(limits.PORT.greatest or 0),
        description="Port at which a worker serves its [metrics for Prometheus](monitoring.md#prometheus). The workers "
        "of a local fleet use this port and the next ones. If it is not set, a worker has no metrics.",
    )
    metrics_address: IPvAnyAddress = Field(
        ip_address("127.0.0.1"),
        description="IP address of this machine at which workers and commands serve their metrics. The metrics need no "
        "password, so use only an address that strangers can't reach.",
    )
    report: bool = Field(
        True,
        description="Whether a command that completes a run writes the [report](report.md). With `off`, only `producer "
        "report` writes it.",
    )
    flower_password_file: Path | None = Field(
        None, description="File with the password of Flower's user `imagefleet`. Flower does not start without it."
    )
    demo_url: str | None = Field(
        None,
        description="URL of a running demo server. `producer demo` uses it if a broker is configured.",
    )
    prefetch: int = Field(
        limits.PREFETCH,
        ge=1,
        le=64,
        description="Tasks reserved by a worker per slot, including the running one.",
    )

    @property
    def broker(self) -> str | None:
        """The broker's URL, including its password and the TLS verification options.

        Raises:
            SettingsError: a password file is unreadable, CA certificates are set for a URL without TLS, or a file is
                set without a URL.
        """
        url = self.broker_url
        files = (
            ("PASSWORD", self.broker_password_file),
            ("SENTINEL_PASSWORD", self.broker_sentinel_password_file),
            ("CA", self.broker_ca_file),
        )
        for name, file in files:
            if url is None and file is not None:
                raise SettingsError(
                    f"IMAGEFLEET_BROKER_{name}_FILE is set, but IMAGEFLEET_BROKER_URL is not; set both or neither"
                )
        if url is not None and self.broker_password_file is not None:
            url = _with_password(url, _read_secret("IMAGEFLEET_BROKER_PASSWORD_FILE", self.broker_password_file))
        if url is not None and self.broker_sentinel_password_file is not None:
            name = "IMAGEFLEET_BROKER_SENTINEL_PASSWORD_FILE"
            if not url.startswith("sentinel:"):
                raise SettingsError(f"{name} is set, but IMAGEFLEET_BROKER_URL is not a sentinel:// URL")
            password = _read_secret(name, self.broker_sentinel_password_file)
            url += ("&" if "?" in url.rpartition(";")[2] else "?") + urlencode({"sentinel_password": password})
        if url is not None and self.broker_ca_file is not None:
            parts = urlsplit(url)
            if parts.scheme != "rediss":
                raise SettingsError(
                    "IMAGEFLEET_BROKER_CA_FILE is set, but IMAGEFLEET_BROKER_URL is not a rediss:// URL"
                )
            # Options in the URL take precedence, even if they disable verification. The Redis client later refuses a
            # URL that disables verification.
            query = {
                "ssl_cert_reqs": "required",
                "ssl_ca_certs": str(self.broker_ca_file),
                **dict(parse_qsl(parts.query)),
            }
            url = parts._replace(query=urlencode(query, safe="/")).geturl()
        return url

    @property
    def proxy_url(self) -> str | None:
        """The proxy's URL. The URL includes the password, so never show it.

        Raises:
            SettingsError: the password file is unreadable, or the URL is invalid.
        """
        if self.proxy is None:
            return None
        url = self.proxy.get_secret_value()
        if self.proxy_password_file is None:
            return url
        password = _read_secret("IMAGEFLEET_PROXY_PASSWORD_FILE", self.proxy_password_file)
        try:
            return _with_password(url, password)
        except ValueError:
            # The text of the ValueError is not shown, because it may quote a part of the URL.
            raise SettingsError("IMAGEFLEET_PROXY: not a valid URL") from None

    @property
    def flower_password(self) -> str:
        """The password of Flower's only user.

        Raises:
            SettingsError: no password file is set, or the file is unreadable.
        """
        if self.flower_password_file is None:
            raise SettingsError("IMAGEFLEET_FLOWER_PASSWORD_FILE is not set; Flower does not start without a password")
        return _read_secret("IMAGEFLEET_FLOWER_PASSWORD_FILE", self.flower_password_file)

    @field_validator("allow_networks", "deny_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("store_roots", mode="before")
    @classmethod
    def _locations(cls, roots: object) -> object:
        # Neither an absolute path nor a URL begins with a bracket.
        is_array = isinstance(roots, str) and roots.lstrip().startswith("[")
        parts = _json_array(str(roots)) if is_array else cls._split(roots)
        if not isinstance(parts, tuple | list):
            return parts
        locations = [parse_location(root) if isinstance(root, str) else root for root in parts]
        for root in locations:
            if isinstance(root, Path) and not root.is_absolute():
                raise ValueError(f"{root} is not an absolute path")
        return tuple(map(resolved, locations))


def _json_array(text: str) -> list[str]:
    try:
        parts = json.loads(text)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("it begins with a bracket, but is not a JSON array of strings")
    return parts


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the unknown ``IMAGEFLEET_*`` variables of the environment, each with the most similar known name."""
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for variable, value in sorted(environment.items()):
        prefix, name = variable[: len(_PREFIX)].upper(), variable[len(_PREFIX) :].upper()
        if value and prefix == _PREFIX and name not in (*known, *_ENTRYPOINT_NAMES):
            similar = difflib.get_close_matches(name, known, n=1)
            found.append(f"{variable} (did you mean {_PREFIX}{similar[0]}?)" if similar else variable)
    return found


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}").geturl()


def _read_secret(name: str, path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{name}: cannot read {path}: {error}") from error
    if not secret:
        raise SettingsError(f"{name}: {path} is empty")
    return secret


@cache
def settings() -> Settings:
    """Return this process's settings. Only the first call reads them from the environment.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "IMAGEFLEET_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error
