"""Limits for reading an image's metadata."""

from __future__ import annotations

#: Maximum size of a colour profile, in bytes. A printer's profile has one or two million bytes.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
#: Two limits for one file: the number of pieces to visit one by one, and the number of places to try in searches for
#: the next piece.
MAX_PIECES, MAX_CANDIDATES = 20_000, 200
