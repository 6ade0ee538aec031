"""What axe-core, the tester of accessibility, finds on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping

from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Page

# Only violations come back, as text: what is right fills some megabytes, which Playwright takes seconds to read.
RUN = """([context, options]) =>
    axe.run(context || document, options).then(({violations}) => JSON.stringify(violations))"""


def violations(
    page: Page, rules: Mapping[str, object] | None = None, context: str | Mapping[str, object] | None = None
) -> str:
    """A report, which is empty where all is well."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], "preload": False, **(rules or {})}  # a file may not read files
    found = AxeResults({"violations": json.loads(page.evaluate(RUN, [context, options]))})
    return found.generate_report() if found.violations_count else ""
