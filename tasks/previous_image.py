"""Find and read a previous run's image, and check it against the manifest of that run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tasks.download.conditional import Validators, usable_validators
from tasks.download.downloader import Download
from tasks.errors import StorageError
from tasks.images import identify
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.model import PreviousImage
from tasks.storage.store import Store

#: The form of a valid path: a shard's folder and a key. This check ensures that a message can't name any other file.
_PATH = re.compile(r"[0-9]{5,}/[0-9]{5,}\.([a-z]+)")
_EXTENSIONS = frozenset(identify.EXTENSIONS.values())


@dataclass(frozen=True, slots=True)
class PreviousFile:
    """A URL's image in the folder of a previous run. This folder is only read."""

    image: PreviousImage
    store: Store

    def validators(self) -> Validators | None:
        """Return the validators for the conditional request; None if the image can't be reused."""
        return usable_validators(self.image) if self._exists() else None

    def load(self) -> EncodedImage | None:
        """Return the image; None if the file is missing or differs from the manifest."""
        facts = self.image
        try:
            body = self.store.read(facts.path) if self._exists() else b""
        except StorageError:
            return None
        if identify.digest(body) != facts.sha256:
            return None
        info = ImageInfo(facts.format, self._extension() or "", facts.width, facts.height)
        return EncodedImage(body, info, (facts.original_width, facts.original_height))

    def with_stored_headers(self, response: Download) -> Download:
        """Return a 304 response. If it lacks a validator, add the stored one (RFC 9111, section 4.3.4)."""
        return replace(
            response,
            etag=self.image.etag if response.etag is None else response.etag,
            last_modified=self.image.last_modified if response.last_modified is None else response.last_modified,
        )

    def _extension(self) -> str | None:
        found = _PATH.fullmatch(self.image.path)
        return found[1] if found is not None and found[1] in _EXTENSIONS else None

    def _exists(self) -> bool:
        """Return whether a regular file with a valid path and the right size exists; the file is not read."""
        try:
            return self._extension() is not None and self.store.file_size(self.image.path) == self.image.bytes
        except StorageError:
            # The image is downloaded instead.
            return False
