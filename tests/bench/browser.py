"""Pages in a real browser: Chromium on the PATH, or the one that `playwright install chromium` fetched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Visit:
    """What a browser noticed of a page: messages, requests beyond the page itself, and its width."""

    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    overflow: int = 0


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, NAMES)), None) or driver.chromium.executable_path
        if not Path(path).is_file():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox refuses root
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def visit(browser: Any, page: Path, width: int, picture: Path, scheme: str = "light") -> Visit:
    """Open a page at a width in CSS pixels and take a picture of all of it."""
    found = Visit()
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.on("console", lambda message: found.messages.append(message.text))
    tab.on("pageerror", lambda error: found.messages.append(str(error)))
    tab.on("request", lambda request: found.requests.append(request.url))
    tab.goto(page.as_uri())
    found.overflow = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    found.requests.remove(page.as_uri())
    tab.screenshot(path=picture, full_page=True)
    tab.close()
    return found
