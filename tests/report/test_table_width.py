"""Tables fit 80 columns, and show names as they are: brackets in them are no markup."""

import pytest

from revision_jax.data.annotations.gaps import Gap
from revision_jax.preparation.commands import _tell
from revision_jax.report.table import print_files, print_rows

PATH = "/a/long/path" * 12
NAMES = ("[red]", "[/no markup]", "[link=x]")


def printed(capsys):
    out = capsys.readouterr().out
    lines = out.split("\n")
    assert max(map(len, lines)) <= 80 and "…" not in out
    return out, "".join(line.strip(" │┃") for line in lines)


def test_names_and_reasons_are_broken(capsys, tmp_path):
    print_rows(PATH, "[red] note", ["", "found"], [["features", f"from {PATH}"], ["[red]", "[/no markup]"]])
    out, _ = printed(capsys)
    assert "[red] note" in out and all(name in out for name in NAMES[:2])
    why = "4 times the length that 9 of 10 events do not exceed, whole seconds, at most the longest video"
    print_rows("[red]", "", ["field", "chosen", "because"], [["hierarchy.window_s", "74", why], [PATH, PATH, why]])
    assert "[red]" in printed(capsys)[0]
    (tmp_path / ("n" * 120)).touch()
    print_files(tmp_path)
    printed(capsys)


def test_numbers_are_never_broken(capsys):
    print_rows("", "", ["method", *"abcdefghij"], [["x", *["123.4 to 567.8"] * 10]])
    assert capsys.readouterr().out.count("123.4 to 567.8") == 10


@pytest.mark.parametrize("name", [*NAMES, PATH])
def test_gaps_are_told_in_80_columns(name, capsys):
    assert _tell(
        "what was left out", {name: [Gap("video missing", f"annotated, not among 3 files: {name}", name, name)]}
    )
    _, text = printed(capsys)
    assert name == PATH or text.count(name) == 4
