"""The environment of a process: the only place where it is read.

A worker's operator decides by these variables where the worker may connect to and where it may write; no message
can widen them. Each is written ``IMAGEFLEET_NAME`` in the environment; lists are separated by commas.

To add a setting: a field here with its description, the module that takes it as an argument, and
``docs/settings.md``, which ``make docs`` writes from the descriptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config import SettingsError, bounds

REDIS_CONF = Path(__file__).with_name("redis.conf")
FLOWER_CONF = Path(__file__).with_name("flower.py")
_PREFIX = "IMAGEFLEET_"
#: Names after the prefix that are read elsewhere: by `config/entrypoint.sh`.
_OTHER_READERS = ("OWNED_BY",)


class Settings(BaseSettings):
    """What the environment says, checked; frozen."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, env_ignore_empty=True)

    broker_url: str | None = Field(
        None,
        description="The Redis that holds the tasks: redis://, rediss://, redis+socket://, or sentinel:// for a set of "
        "[Sentinels](many-machines.md#redis-with-sentinel). Without it a worker looks at redis://localhost:6379/0, "
        "and a command starts a local fleet.",
    )
    broker_password_file: Path | None = Field(
        None, description="A file that holds the broker's password, to keep it out of the URL and the environment."
    )
    broker_sentinel_password_file: Path | None = Field(
        None,
        description="A file that holds the password of the Sentinels in a sentinel:// broker URL, where they have one.",
    )
    broker_ca_file: Path | None = Field(
        None,
        description="The certificates that a rediss:// broker's own has to be signed by (a PEM file); with it the URL "
        "needs no ssl_cert_reqs and no ssl_ca_certs.",
    )
    allow_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="What a worker may connect to besides public addresses: networks, addresses or host names, "
        "each with an optional :port.",
    )
    deny_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="What a worker may not connect to, in the same form; a host name stands for those below it, too. "
        "It wins over what is allowed.",
    )
    proxy: SecretStr | None = Field(
        None,
        description="The HTTP proxy that a worker fetches all images through: http://[user:password@]host:port, "
        "with port 80 where none is named. It resolves the names of hosts, and so decides instead of the worker what "
        "they may stand for ([Proxies](security.md#proxies)). HTTP_PROXY, HTTPS_PROXY and NO_PROXY count for nothing.",
    )
    proxy_password_file: Path | None = Field(
        None, description="A file that holds the proxy's password, to keep it out of the URL and the environment."
    )
    store_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="The folders below which a worker may write. A worker does not start without one."
    )
    ca_bundle: Path | None = Field(
        None, description="Certificates to trust for https in place of the usual ones (a PEM file)."
    )
    allow_insecure_tls: bool = Field(
        False,
        description="Whether runs with `--insecure` may fetch from https servers that can't be verified, or that speak "
        "versions of TLS before 1.2. It is never for Redis.",
    )
    contact: str | None = Field(
        None,
        pattern=r"^[\x21-\x27\x2a-\x7e]+$",
        description="Where the owners of images can complain: a URL or mailto:, which a worker's User-Agent says.",
    )
    task_events: bool = Field(
        True,
        description="Whether workers send Celery's task events, which Flower shows; `off` saves up to three messages "
        "an image.",
    )
    flower_password_file: Path | None = Field(
        None, description="A file that holds the password of Flower's user `imagefleet`. Flower does not start without."
    )
    demo_url: str | None = Field(
        None,
        description="A demo server that is running already: `producer demo` uses it where a broker is configured.",
    )
    prefetch: int = Field(
        bounds.PREFETCH,
        ge=1,
        le=64,
        description="Tasks that a worker reserves for each of its slots, with the one that runs.",
    )

    @property
    def broker(self) -> str | None:
        """The broker's URL, with its password and what TLS is verified by in it.

        Raises:
            SettingsError: the file of the password can't be read, there are certificates for a URL without TLS, or
                either is there without a URL.
        """
        url = self.broker_url
        files = (
            ("PASSWORD", self.broker_password_file),
            ("SENTINEL_PASSWORD", self.broker_sentinel_password_file),
            ("CA", self.broker_ca_file),
        )
        for name, file in files:
            if url is None and file is not None:
                raise SettingsError(f"IMAGEFLEET_BROKER_{name}_FILE is set, and IMAGEFLEET_BROKER_URL is not")
        if url is not None and self.broker_password_file is not None:
            url = _with_password(url, _secret("IMAGEFLEET_BROKER_PASSWORD_FILE", self.broker_password_file))
        if url is not None and self.broker_sentinel_password_file is not None:
            name = "IMAGEFLEET_BROKER_SENTINEL_PASSWORD_FILE"
            if not url.startswith("sentinel:"):
                raise SettingsError(f"{name} is set, and IMAGEFLEET_BROKER_URL is not a sentinel:// URL")
            password = _secret(name, self.broker_sentinel_password_file)
            url += ("&" if "?" in url.rpartition(";")[2] else "?") + urlencode({"sentinel_password": password})
        if url is not None and self.broker_ca_file is not None:
            parts = urlsplit(url)
            if parts.scheme != "rediss":
                raise SettingsError(
                    "IMAGEFLEET_BROKER_CA_FILE is set, and IMAGEFLEET_BROKER_URL is not a rediss:// URL"
                )
            # What the URL says stands, also a check that it switches off: that is refused where it is used.
            query = {
                "ssl_cert_reqs": "required",
                "ssl_ca_certs": str(self.broker_ca_file),
                **dict(parse_qsl(parts.query)),
            }
            url = parts._replace(query=urlencode(query, safe="/")).geturl()
        return url

    @property
    def proxy_url(self) -> str | None:
        """The proxy's URL, with its password in it; not to be shown.

        Raises:
            SettingsError: the file of the password can't be read, or the URL is none.
        """
        if self.proxy is None:
            return None
        url = self.proxy.get_secret_value()
        if self.proxy_password_file is None:
            return url
        password = _secret("IMAGEFLEET_PROXY_PASSWORD_FILE", self.proxy_password_file)
        try:
            return _with_password(url, password)
        except ValueError:
            # Its text may quote a part of the URL.
            raise SettingsError("IMAGEFLEET_PROXY: it is no URL") from None

    @property
    def flower_password(self) -> str:
        """The password of Flower's only user.

        Raises:
            SettingsError: there is none, or its file can't be read.
        """
        if self.flower_password_file is None:
            raise SettingsError("IMAGEFLEET_FLOWER_PASSWORD_FILE is not set, and Flower is not to be open to anybody")
        return _secret("IMAGEFLEET_FLOWER_PASSWORD_FILE", self.flower_password_file)

    @field_validator("allow_networks", "deny_networks", "store_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("store_roots")
    @classmethod
    def _absolute(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"{root} is not an absolute path")
        return tuple(Path(root).resolve() for root in roots)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the set ``IMAGEFLEET_*`` variables that nothing reads, each with the name that was probably meant."""
    known = [name.upper() for name in Settings.model_fields]
    found = []
    for variable, value in sorted(environment.items()):
        prefix, name = variable[: len(_PREFIX)].upper(), variable[len(_PREFIX) :].upper()
        if value and prefix == _PREFIX and name not in (*known, *_OTHER_READERS):
            meant = difflib.get_close_matches(name, known, n=1)
            found.append(f"{variable} (did you mean {_PREFIX}{meant[0]}?)" if meant else variable)
    return found


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{place}").geturl()


def _secret(name: str, path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{name}: {path} can't be read: {error}") from error
    if not secret:
        raise SettingsError(f"{name}: {path} is empty")
    return secret


@cache
def settings() -> Settings:
    """Return this process's settings, read once.

    Raises:
        SettingsError: a variable does not hold what it should.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "IMAGEFLEET_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{name}: {first['msg']}") from error
