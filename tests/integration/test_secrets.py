"""The passwords of a Compose fleet are created once and kept. The user can show or choose the passwords."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.integration import processes


def secrets(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command for a folder."""
    argv = [sys.executable, "-m", "config.passwords", *arguments, str(folder)]
    return subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_creates_passwords_once_and_shows_them(tmp_path: Path) -> None:
    """The first call creates three long passwords, a second call keeps these passwords, and `--show` prints them."""
    assert secrets(tmp_path).returncode == 0
    made = {name: (tmp_path / f"{name}-password").read_text() for name in ("redis", "flower", "grafana")}
    assert secrets(tmp_path).returncode == 0
    assert made == {name: (tmp_path / f"{name}-password").read_text() for name in made}
    assert len(set(made.values())) == 3
    assert min(map(len, made.values())) >= 32
    shown = secrets(tmp_path, "--show").stdout
    assert all(password in shown for password in made.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o444}


@pytest.mark.parametrize("prefix", ["watch", "/watch", "watch/", "/watch/"])
def test_shows_flowers_address_with_its_prefix(tmp_path: Path, prefix: str) -> None:
    """`--show` includes Flower's URL prefix, which may be set with or without slashes around it."""
    assert secrets(tmp_path).returncode == 0
    assert (
        "http://127.0.0.1:5999/watch "
        in secrets(tmp_path, "--show", FLOWER_PORT="5999", FLOWER_URL_PREFIX=prefix).stdout
    )


@pytest.mark.parametrize("password", ["simple", 'with "quotes" and \\ characters', "a b#c$d'e"])
def test_redis_uses_the_chosen_password(tmp_path: Path, password: str) -> None:
    """Redis asks for the user's password, whatever characters it contains."""
    assert secrets(tmp_path, REDIS_PASSWORD=password).returncode == 0
    with processes.redis_server(tmp_path, "--include", str(tmp_path / "redis.conf")) as port:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        with redis.Redis(port=port, password=password) as client:
            assert client.ping()


def test_refuses_a_password_with_a_line_break(tmp_path: Path) -> None:
    """A line break in a password would add a line to Redis's configuration."""
    ended = secrets(tmp_path, REDIS_PASSWORD="a\nport 1")
    assert ended.returncode == 1
    assert ended.stderr.startswith("REDIS_PASSWORD contains a control character")
    assert not list(tmp_path.iterdir())
