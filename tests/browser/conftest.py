"""Debian's Chromium, headless, driven by Playwright: `pytest -m browser`.

`visit(address)` opens a page of its own at a width and in a colour scheme, and notes what the page must not do:
requests that leave this machine, and errors. Nothing is downloaded: Playwright's driver comes with its wheel, Chromium
by `apt-get install chromium`.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

BINARIES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 120_000  # for anything that a page is waited for; two cores may be busy


@dataclasses.dataclass
class Visit:
    """An open page.

    Attributes:
      page: Playwright's page.
      outside: addresses of requests to other machines; they are refused.
      errors: uncaught errors of scripts, and what the console was told as an error.
    """

    page: Page
    outside: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window; above 0 it scrolls sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    if binary is None:
        pytest.fail(
            f"found none of {', '.join(BINARIES)}; these tests need one: `apt-get install chromium`", pytrace=False
        )
    with sync_playwright() as playwright:
        # Root has no sandbox; /dev/shm is small in containers.
        chromium = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """`visit(address or file, width=1400, height=900, dark=False)` -> a `Visit`; closed after the test."""
    contexts = []

    def open_page(address: str | Path, *, width: int = 1400, height: int = 900, dark: bool = False) -> Visit:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        visited = Visit(context.new_page())
        visited.page.on("pageerror", lambda error: visited.errors.append(str(error)))
        visited.page.on("console", lambda told: told.type == "error" and visited.errors.append(told.text))

        def leaves(route):
            visited.outside.append(route.request.url)
            route.abort()

        context.route(lambda url: not _is_here(url), leaves)
        visited.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return visited

    yield open_page
    for context in contexts:
        context.close()


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost")
