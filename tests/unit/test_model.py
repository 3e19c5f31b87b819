"""The values sent between processes are immutable and compact, and they survive JSON."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.image_options import ResizeMode, ResizeOptions
from tasks.model import FetchOptions, HeaderOptions, Outcome, Reason, RunOptions, Status, image_key, shard_name
from tasks.throttle_options import HostLimit, ThrottleOptions

_numbers = st.none() | st.integers(0, 2**40)
_texts = st.none() | st.text(max_size=30)
_outcomes = st.builds(
    Outcome,
    key=st.text(min_size=1, max_size=12),
    status=st.sampled_from(Status),
    reason=st.none() | st.sampled_from(Reason),
    error_message=_texts,
    path=_texts,
    width=_numbers,
    height=_numbers,
    original_width=_numbers,
    original_height=_numbers,
    format=_texts,
    bytes=_numbers,
    sha256=_texts,
    exif=_texts,
    phash=_texts,
    http_status=_numbers,
    final_url=_texts,
    etag=_texts,
    last_modified=_texts,
    attempts=st.integers(0, 20),
    fetch_seconds=st.floats(0, 1e6),
    finished_at=st.floats(0, 1e11),
    worker=_texts,
    recovered=st.booleans(),
)


def img2dataset_key(shard: int, offset: int, shard_size: int) -> str:
    """Return a key by the formula of img2dataset's ``compute_key``. The shard number has five digits."""
    digits = math.ceil(math.log10(shard_size))
    return f"{10**digits * shard + offset:0{digits + 5}d}"


@pytest.mark.parametrize("shard_size", [2, 10, 11, 100, 101, 999, 1000, 1001, 5000, 10_000])
@pytest.mark.parametrize("shard", [0, 3, 99_999, 100_000, 1_234_567])
def test_key_matches_img2dataset(shard: int, shard_size: int) -> None:
    """The first and the last key of a shard equal img2dataset's keys, even beyond 99,999 shards."""
    for offset in (0, shard_size - 1):
        assert image_key(shard * shard_size + offset, shard_size) == img2dataset_key(shard, offset, shard_size)


@pytest.mark.parametrize(
    ("index", "shard_size", "key"),
    [(0, 1000, "00000000"), (3_007, 1000, "00003007"), (123_456_999, 1000, "123456999"), (2, 1, "000020")],
)
def test_keys_of_known_images(index: int, shard_size: int, key: str) -> None:
    """Keys usually have eight digits. Keys are longer only if the shard number needs more than five digits."""
    assert image_key(index, shard_size) == key


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10_000))
def test_keys_are_distinct(first: int, second: int, shard_size: int) -> None:
    """Two images of a run never have the same key."""
    keys = {image_key(index, shard_size) for index in (first, second)}
    assert len(keys) == len({first, second})


def test_shard_name_grows() -> None:
    """A shard's name has five digits, or more if its number needs them."""
    assert [shard_name(number) for number in (0, 99_999, 100_000)] == ["00000", "99999", "100000"]


@given(_outcomes)
def test_outcome_survives_json(outcome: Outcome) -> None:
    """An Outcome that is sent through Redis as JSON comes back equal. The Outcome's enums do not become strings."""
    back = Outcome.from_json(json.loads(json.dumps(outcome.to_json())))
    assert back == outcome
    assert isinstance(back.status, Status)
    assert back.reason is None or isinstance(back.reason, Reason)


def test_outcome_omits_unset_fields() -> None:
    """Fields without a value are not sent through Redis."""
    assert Outcome("00000000", Status.SUCCESS).to_json() == {
        "key": "00000000",
        "status": "success",
        "attempts": 0,
        "fetch_seconds": 0.0,
        "finished_at": 0.0,
    }


def test_ignores_unknown_fields() -> None:
    """Unknown fields in a message of a later version are ignored."""
    assert Outcome.from_json({"key": "1", "status": "success", "later": 1}) == Outcome("1", Status.SUCCESS)
    run = RunOptions("/out", 10, FetchOptions(retries=7))
    later = run.to_json()
    later["fetch"]["later"] = 1
    later["fetch"]["resize"]["later"] = 1
    later["fetch"]["headers"]["later"] = 1
    assert RunOptions.from_json(later) == run


def test_run_options_survive_json() -> None:
    """A run's options come back from Redis unchanged."""
    resize = ResizeOptions(ResizeMode.KEEP_RATIO, 99, 80)
    head = HeaderOptions("Somebody/1.0", "https://a.example/", (("X-A", "b"), ("X-C", "d")))
    throttle = ThrottleOptions(HostLimit(4, 0.5), overrides=(("a.example", HostLimit(2)),))
    fetch = FetchOptions(timeout=1.5, max_bytes=7, max_pixels=9, resize=resize, headers=head, throttle=throttle)
    run = RunOptions("/out", 250, fetch)
    back = RunOptions.from_json(json.loads(json.dumps(run.to_json())))
    assert back == run
    assert back.fetch.resize.mode is ResizeMode.KEEP_RATIO


@pytest.mark.parametrize("reason", Reason)
def test_reason_has_its_status(reason: Reason) -> None:
    """Only a problem of the image itself has img2dataset's status failed_to_resize."""
    about_the_image = reason in {Reason.NOT_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS, Reason.FILTERED}
    assert reason.status is (Status.FAILED_TO_RESIZE if about_the_image else Status.FAILED_TO_DOWNLOAD)


def test_only_success_is_ok() -> None:
    """An Outcome is ok if its image was saved."""
    assert [Outcome("1", status).ok for status in Status] == [True, False, False]


def test_record_without_limits_has_the_default_limits() -> None:
    """A run started by a version without limits per host can be resumed."""
    value = RunOptions("/out", 10).to_json()
    del value["fetch"]["throttle"]
    assert RunOptions.from_json(value).fetch.throttle == ThrottleOptions()


def test_values_are_frozen() -> None:
    """No field of an Outcome can be changed after its creation."""
    outcome = Outcome("1", Status.SUCCESS)
    for field in fields(outcome):
        with pytest.raises(FrozenInstanceError):
            setattr(outcome, field.name, None)
