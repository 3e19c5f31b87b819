"""Limits for reading an image's metadata."""

from __future__ import annotations

#: Limit of a colour profile; a printer's profile has one or two million bytes.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
#: Pieces of a file to visit one by one, and places to try in searches for the next piece.
MAX_PIECES, MAX_CANDIDATES = 20_000, 200
