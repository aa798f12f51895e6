"""The docs are read on GitHub and as a site: it builds without a warning, and links hold in both places."""

import itertools
import re
from pathlib import Path

import pytest
from mkdocs.__main__ import cli

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; with `--strict` a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.raises(SystemExit) as left:
        cli(["build", "--strict", "-q", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder)])
    assert left.value.code in (0, None)
    return folder


def test_the_site_has_every_page_and_asks_no_other_host(site):
    for page in PAGES:
        folder = Path(page).relative_to("docs") if page.startswith("docs/") else Path(page)
        folder = folder.parent if folder.name == "README.md" else folder.with_suffix("")
        built = site / folder / "index.html"
        html = built.read_text()
        heading = re.search(r"^# (.*)$", (ROOT / page).read_text(), re.MULTILINE)[1]
        assert heading.split(":")[0].split("`")[0] in html, page
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', html), page
    assert "<table>" in (site / "index.html").read_text()


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_hold_on_github(page):
    text = FENCE.sub("", (ROOT / page).read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.resolve().is_file() and ROOT in target.resolve().parents, f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_lists_and_tables_stand_apart(page):
    """GitHub reads them behind a line of text, too; the site does not."""
    lines = FENCE.sub("", (ROOT / page).read_text()).split("\n")
    item = re.compile(r"(- |\d+\. |\|)")
    for before, line in itertools.pairwise(lines):
        if item.match(line):
            assert not before.strip() or item.match(before) or before.startswith("  "), f"{page}: {line}"
