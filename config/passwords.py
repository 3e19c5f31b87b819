"""Create the passwords of a Compose fleet once, store them in a volume, and show them on request.

``python -m config.passwords FOLDER`` creates the missing passwords for Redis, Flower and Grafana. A password is strong
and random unless you set it in REDIS_PASSWORD, FLOWER_PASSWORD or GRAFANA_PASSWORD. ``python -m config.passwords --show
FOLDER`` prints the passwords.

=================  =========================================================================
file               reader
=================  =========================================================================
redis-password     workers, producer and Flower, to log in to Redis
redis.conf         the Redis server; contains the Redis password as ``requirepass``
flower-password    Flower; the user of the password is ``imagefleet``
grafana-password   Grafana, if it is used; the user of the password is ``imagefleet``
=================  =========================================================================

Every service that mounts the volume can read the files, because the services run as different users.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import click
from pydantic_settings import BaseSettings

_USER = "imagefleet"


class ComposeSettings(BaseSettings):
    """The user's choices: the passwords (random if empty), the ports, and Flower's path prefix."""

    redis_password: str = ""
    flower_password: str = ""
    grafana_password: str = ""
    flower_port: int = 5555
    grafana_port: int = 3000
    flower_url_prefix: str = ""


def main() -> None:
    """Create the missing passwords; with ``--show``, print the passwords instead."""
    show, folder = sys.argv[1] == "--show", Path(sys.argv[-1])
    chosen = ComposeSettings()
    if show:
        address = f"http://127.0.0.1:{chosen.flower_port}/{chosen.flower_url_prefix.strip('/')}".rstrip("/")
        click.echo(f"Flower  {address}  user {_USER}, password {_read(folder, 'flower')}")
        address = f"http://127.0.0.1:{chosen.grafana_port}"
        click.echo(f"Grafana {address}  user {_USER}, password {_read(folder, 'grafana')} (with --profile monitoring)")
        click.echo(f"Redis   password {_read(folder, 'redis')}")
        return
    redis = _save(folder, "redis", chosen.redis_password)
    _save(folder, "flower", chosen.flower_password)
    _save(folder, "grafana", chosen.grafana_password)
    # The password is quoted, because it may contain characters with a special meaning in redis.conf.
    quoted = redis.replace("\\", "\\\\").replace('"', '\\"')
    _write(folder / "redis.conf", f'requirepass "{quoted}"\n')


def _save(folder: Path, name: str, chosen: str) -> str:
    """Save and return a password: the user's choice, else the existing password, else a new password."""
    path = folder / f"{name}-password"
    if not chosen.isprintable() or chosen != chosen.strip():
        sys.exit(
            f"{name.upper()}_PASSWORD contains a control character or surrounding space; choose another one in .env"
        )
    password = chosen or (path.read_text(encoding="utf-8") if path.exists() else secrets.token_urlsafe(24))
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
