"""Settings that would make a run fail are reported before anything starts."""

from __future__ import annotations

import pytest

from config.settings import settings
from producer.output.run_file import RunConfig
from producer.runs import preflight
from tasks.errors import UsageError
from tasks.model import FetchOptions


def test_insecure_run_needs_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the workers share this process's environment and would refuse the run, the run is refused at once."""
    config = RunConfig(FetchOptions(insecure=True))
    with pytest.raises(UsageError, match="IMAGEFLEET_ALLOW_INSECURE_TLS is not set"):
        preflight.check_local_options(config)
    monkeypatch.setenv("IMAGEFLEET_ALLOW_INSECURE_TLS", "true")
    settings.cache_clear()
    preflight.check_local_options(config)
