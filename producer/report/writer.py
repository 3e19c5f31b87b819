"""Write the report of a run into its folder."""

from __future__ import annotations

from producer.output.run_file import REPORT_NAME, RunFile
from tasks.storage.store import Store


def write_report(store: Store) -> str:
    """Write the report of the run in a folder, also if the run is not complete. Return the report's full name.

    Raises:
        UsageError: the folder holds no run.
        CommandError: ``run.json`` or a manifest is damaged.
        StorageError: the folder can't be read or written.
    """
    # Other commands don't need these, and importing Jinja2 and Arrow takes a while.
    from producer.report.contact_sheet import contact_sheet
    from producer.report.figures import collect_figures
    from producer.report.page import render

    record = RunFile.load_usable(store)
    figures = collect_figures(record, store)
    sheet = contact_sheet(figures.samples.images, record, store)
    # The page has the URLs of the list without secrets. Still, only the owner of the run can read it, like the
    # manifests.
    store.replace(REPORT_NAME, render(figures, sheet).encode("utf-8", "replace"))
    return store.describe(REPORT_NAME)
