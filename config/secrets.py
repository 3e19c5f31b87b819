"""The passwords of a Compose fleet: made once, kept in a volume, shown on request.

``python -m config.secrets FOLDER`` makes what is missing: a password for Redis and one for Flower, strong and random,
or the ones that REDIS_PASSWORD and FLOWER_PASSWORD give. ``--show`` prints them.

=================  =========================================================================
file               who reads it
=================  =========================================================================
redis-password     workers, producer and Flower, to log in at Redis
redis.conf         the Redis server: the same password as its ``requirepass``
flower-password    Flower; its user is ``imagefleet``
=================  =========================================================================

Services run under different users, so the files can be read by each that the volume is mounted into.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click
from pydantic_settings import BaseSettings

_USER = "imagefleet"


class Asked(BaseSettings):
    """What the user has chosen: passwords, empty where they leave it to us, and where Flower is published."""

    redis_password: str = ""
    flower_password: str = ""
    flower_port: int = 5555
    flower_url_prefix: str = ""


def main() -> None:
    """Make the passwords, or show them."""
    show, folder = sys.argv[1] == "--show", Path(sys.argv[-1])
    asked = Asked()
    if show:
        address = f"http://127.0.0.1:{asked.flower_port}/{asked.flower_url_prefix.strip('/')}".rstrip("/")
        click.echo(f"Flower  {address}  user {_USER}, password {_read(folder, 'flower')}")
        click.echo(f"Redis   password {_read(folder, 'redis')}")
        return
    redis = _make(folder, "redis", asked.redis_password)
    _make(folder, "flower", asked.flower_password)
    # In quotes, a password may hold whatever redis.conf would read as something else.
    quoted = redis.replace("\\", "\\\\").replace('"', '\\"')
    _write(folder / "redis.conf", f'requirepass "{quoted}"\n')


def _make(folder: Path, name: str, asked: str) -> str:
    """Return a password: the one that is asked for, else the one that is there, else a new one."""
    path = folder / f"{name}-password"
    if not asked.isprintable() or asked != asked.strip():
        sys.exit(f"{name.upper()}_PASSWORD holds a control character or surrounding space; choose another one in .env")
    password = asked or (path.read_text(encoding="utf-8") if path.exists() else secrets.token_urlsafe(24))
    _write(path, password)
    return password


def _read(folder: Path, name: str) -> str:
    return (folder / f"{name}-password").read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o444)
    temporary.replace(path)


if __name__ == "__main__":
    main()
