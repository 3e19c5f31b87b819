"""Check a page's accessibility with axe-core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import required_module

if TYPE_CHECKING:
    from playwright.sync_api import Page

_SERIOUS = ("serious", "critical")


def serious_faults(page: Page) -> list[str]:
    """Return axe-core's serious and critical violations on a page, each with its rule and its elements."""
    required_module("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {violation['help']}: {', '.join(str(node['target']) for node in violation['nodes'])}"
        for violation in violations
        if violation["impact"] in _SERIOUS
    ]
