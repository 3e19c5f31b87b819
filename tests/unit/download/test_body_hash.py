"""A body must have the hash that the URL list gives for it."""

from __future__ import annotations

import hashlib

import pytest

from tasks.download.body_hash import DIGITS, verify_hash
from tasks.errors import HashMismatchError


@pytest.mark.parametrize("algorithm", DIGITS)
def test_only_the_expected_bytes_pass(algorithm: str) -> None:
    """The expected bytes pass. Other bytes raise an error, which shows the start of both hashes."""
    expected = hashlib.new(algorithm, b"body").hexdigest()
    assert len(expected) == DIGITS[algorithm]
    verify_hash(b"body", f"{algorithm}:{expected}")
    with pytest.raises(HashMismatchError, match=f"{algorithm} .* not {expected[:16]}"):
        verify_hash(b"other", f"{algorithm}:{expected}")


@pytest.mark.parametrize("expected", ["", "crc32:00000000", "sha256", "shake_128:00"])
def test_unknown_hash_is_never_a_match(expected: str) -> None:
    """A hash that can't be computed counts as a mismatch."""
    with pytest.raises(HashMismatchError):
        verify_hash(b"", expected)
