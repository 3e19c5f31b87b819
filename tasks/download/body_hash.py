"""Compare a downloaded body with the hash that a URL list gives for it."""

from __future__ import annotations

import hashlib
import hmac

from tasks.errors import HashMismatchError

#: The accepted algorithms, and the number of hexadecimal digits in a hash of each algorithm.
DIGITS = {"sha256": 64, "sha512": 128, "md5": 32}


def verify_hash(body: bytes, expected: str) -> None:
    """Check the hash of the downloaded bytes, before the image is resized.

    Args:
        body: the downloaded bytes.
        expected: the hash as ``ALGORITHM:DIGITS``, with an algorithm of `DIGITS` and lower-case hexadecimal digits.

    Raises:
        HashMismatchError: the bytes have another hash, or the algorithm is unknown.
    """
    algorithm, _, digits = expected.partition(":")
    if algorithm not in DIGITS:
        raise HashMismatchError("the algorithm of the expected hash is unknown")
    found = hashlib.new(algorithm, body, usedforsecurity=False).hexdigest()
    if not hmac.compare_digest(found, digits):
        raise HashMismatchError(f"the {algorithm} of the downloaded bytes is {found[:16]}…, not {digits[:16]}…")
