"""A previous run's image where it stands: found, read, and proven to be what that run's manifest says."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.download.conditional import Validators, usable_validators
from tasks.download.downloader import Download
from tasks.errors import StorageError
from tasks.images import identify
from tasks.images.identify import EncodedImage, ImageInfo
from tasks.model import PreviousImage
from tasks.storage.store import Store

#: A shard's folder and a key; a message can name no other place.
_PATH = re.compile(r"[0-9]{5,}/[0-9]{5,}\.([a-z]+)")
_EXTENSIONS = frozenset(identify.EXTENSIONS.values())


@dataclass(frozen=True, slots=True)
class PreviousFile:
    """What a previous run has saved of a URL, in that run's folder, which is only read."""

    image: PreviousImage
    store: Store

    @property
    def file(self) -> Path:
        """Where it is on the file system."""
        return self.store.path(self.image.path)

    def validators(self) -> Validators | None:
        """Return under which condition its URL is asked for; None if it can't be taken over whatever is answered."""
        return usable_validators(self.image) if self._exists() else None

    def load(self) -> EncodedImage | None:
        """Return the file and what it is; None if it is not what the manifest says, or gone."""
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
        """Return the answer that it is unchanged with what that leaves unsaid (RFC 9111, 4.3.4)."""
        return replace(
            response,
            etag=self.image.etag if response.etag is None else response.etag,
            last_modified=self.image.last_modified if response.last_modified is None else response.last_modified,
        )

    def _extension(self) -> str | None:
        found = _PATH.fullmatch(self.image.path)
        return found[1] if found is not None and found[1] in _EXTENSIONS else None

    def _exists(self) -> bool:
        """Tell whether a file of the right size stands under the right kind of name; it is not read for that."""
        if self._extension() is None:
            return False
        try:
            status = os.lstat(self.file)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == self.image.bytes
