"""End a run if its workers can save no images, for example because the disk is full."""

from __future__ import annotations

from producer.dispatch.unfit_workers import UnfitWorkers
from producer.output.run_file import resume_command
from tasks.errors import CommandError
from tasks.storage.store import Store

#: The run ends after this many images in a row could not be saved.
_MAX_UNSAVED = 200


class SavingCheck:
    """Counts the images that could not be saved since the last image was saved."""

    def __init__(self, store: Store, unfit: UnfitWorkers) -> None:
        """Take the run's folder and its `UnfitWorkers`, which have the reasons why workers are unfit."""
        self._store, self._unfit = store, unfit
        #: The two counts when the last image was saved: saved images, and images that could not be saved.
        self._saved = self._unsaved = 0

    def update(self, saved: int, unsaved: int) -> None:
        """Take the workers' two counts: images that were saved, and images that could not be saved.

        Raises:
            CommandError: too many images in a row could not be saved.
        """
        # After Redis was emptied, both counts start again at 0.
        if saved != self._saved or unsaved < self._unsaved:
            self._saved, self._unsaved = saved, unsaved
        elif unsaved - self._unsaved >= _MAX_UNSAVED:
            troubles = "; ".join(self._unfit.storage_troubles)
            raise CommandError(
                "Workers can't save images",
                f"the last {unsaved - self._unsaved} images could not be written to {self._store.location}; "
                f"{troubles or 'the disk may be full, or the workers may lack permission to write there'}",
                f"Free disk space or grant permission, then run `{resume_command(self._store)}`.",
            )
