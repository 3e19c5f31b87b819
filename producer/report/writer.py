"""Write the report of a run into its folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from producer.output.run_file import REPORT_NAME, RunFile
from producer.report.thumbnails import ThumbnailMaker
from tasks.storage.store import Store


def write_report(store: Store) -> str:
    """Write the report of the run in a folder, also if the run is not complete. Return the report's full name.

    Raises:
        UsageError: the folder holds no run.
        CommandError: ``run.json`` or a manifest is damaged.
        StorageError: the folder can't be read or written.
    """
    return save_page(build_page(store), store)


def build_page(store: Store) -> bytes:
    """Return the report of the run in a folder as an HTML page in UTF-8. The errors are those of `write_report`."""
    # The folder may have been moved since the run.
    record = replace(RunFile.load_usable(store), out=store.location)
    # The process that makes the thumbnails takes a while to start, like the imports, which other commands don't need.
    with ThumbnailMaker() as maker, ThreadPoolExecutor(1) as pool:
        from producer.report.contact_sheet import contact_sheet
        from producer.report.figures import collect_figures

        figures = collect_figures(record, store)
        # Preparing the rest of the page takes about as long as the thumbnails.
        sheet = pool.submit(contact_sheet, figures.samples.images, record, store, maker)
        from producer.report.page import render

        return render(figures, sheet.result).encode("utf-8", "replace")


def save_page(page: bytes, store: Store) -> str:
    """Save the page in the folder, and return its full name. The errors are those of `write_report`."""
    # The page has the URLs of the list without secrets. Still, only the owner of the run can read it, like the
    # manifests.
    store.replace(REPORT_NAME, page)
    return store.describe(REPORT_NAME)
