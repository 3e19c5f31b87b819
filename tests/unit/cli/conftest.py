"""Settings of the tests of commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from config.settings import Settings, settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove imagefleet's environment variables."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IMAGEFLEET_{name.upper()}", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()
