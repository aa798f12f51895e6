"""The fixture sees what a page must not do."""

import pytest

pytestmark = pytest.mark.browser
PAGE = """<!doctype html><html><head><link rel="stylesheet" href="https://example.org/font.css"></head>
<body style="margin:0"><p style="width:600px">wide</p><p id="scheme"></p><script>
document.getElementById("scheme").textContent = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
throw new Error("broken script");</script></body></html>"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_requests_errors_width_and_colours(visit, tmp_path, dark):
    (tmp_path / "page.html").write_text(PAGE)
    visited = visit(tmp_path / "page.html", width=390, dark=dark)
    assert visited.outside == ["https://example.org/font.css"]
    assert any("broken script" in error for error in visited.errors)
    assert visited.overflow == 600 - 390
    assert visited.page.inner_text("#scheme") == ("dark" if dark else "light")
