"""Settings that would make a run fail are reported before anything starts."""

from __future__ import annotations

import pytest

from config.settings import settings
from producer.output.run_file import RunConfig
from producer.runs import preflight
from tasks.errors import UsageError
from tasks.image_options import DEFAULT_FORMATS, ImageFormat
from tasks.model import FetchOptions


def test_insecure_run_needs_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the workers share this process's environment and would refuse the run, the run is refused at once."""
    config = RunConfig(FetchOptions(insecure=True))
    with pytest.raises(UsageError, match="IMAGEFLEET_ALLOW_INSECURE_TLS is not set"):
        preflight.check_local_options(config)
    monkeypatch.setenv("IMAGEFLEET_ALLOW_INSECURE_TLS", "true")
    settings.cache_clear()
    preflight.check_local_options(config)


@pytest.mark.parametrize(
    ("fetch", "package", "extra"),
    [
        (FetchOptions(formats=(*DEFAULT_FORMATS, ImageFormat.HEIC)), "pillow_heif", "heic"),
        (FetchOptions(formats=(ImageFormat.JXL,)), "pillow_jxl", "jxl"),
        (FetchOptions(phash=True), "imagehash", "phash"),
    ],
)
def test_missing_extras(fetch: FetchOptions, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a run needs an optional package that is not installed, the run is refused, and the error names the extra."""
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(UsageError) as caught:
        preflight.check_local_options(RunConfig(fetch))
    assert f"imagefleet[{extra}]" in caught.value.hint
    preflight.check_local_options(RunConfig(FetchOptions(formats=(*DEFAULT_FORMATS, ImageFormat.SVG))))
