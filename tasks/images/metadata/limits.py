"""Limits for reading an image's metadata."""

from __future__ import annotations

#: Limit of a colour profile, in bytes. A printer's profile has one or two million bytes.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
#: Maximum number of pieces of a file to visit one by one, and maximum number of places to try in searches for the next
#: piece.
MAX_PIECES, MAX_CANDIDATES = 20_000, 200
