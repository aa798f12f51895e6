"""Text of strangers: lines end at a line feed only, marks are accepted, other encodings are named."""

import json
import re
from pathlib import Path

import pytest

import revision_jax
from revision_jax.runs.asking import read_sentences
from revision_jax.text import parse_json, read_jsonl, read_lines, read_text, split_lines

# Characters at which str.splitlines splits and a file's lines do not end.
INSIDE = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_lines_end_at_a_line_feed_only(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(f"a{INSIDE}b\r\n\nc\rd\n".encode())
    assert read_lines(path) == [f"a{INSIDE}b", "", "c\rd"]
    assert split_lines("a\nb") == ["a", "b"] and split_lines("") == [] and split_lines("\n") == [""]


def test_no_reader_of_files_uses_splitlines():
    package = Path(revision_jax.__file__).parent
    # Messages of libraries, programs as text, and what the kernel tells: no files of anybody.
    other = {"interop/torch_files.py", "parallel/collectives.py", "parallel/multihost.py", "benchmarks/pipeline.py"}
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\.splitlines\(", path.read_text(encoding="utf-8"))
    }
    assert found <= other


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("a\nein grüner Kreis\n".encode("latin1"), r"byte 0xfc at 8 \(line 2\).*iconv -f latin1"),
        ("\ufeffa\nü".encode() + b"\xff", r"byte 0xff at 7 \(line 2\)"),
        ("a circle".encode("utf-16"), r"UTF-16 text \(it begins with the bytes ff fe\)"),
        ("a circle".encode("utf-32"), "UTF-32 text"),
        ("a\ncircle".encode("utf-16-le"), r"a zero byte \(line 1\)"),
    ],
)
def test_another_encoding_is_named_with_file_byte_and_remedy(tmp_path, data, found):
    path = tmp_path / "queries.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=found) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}: ") and "expected UTF-8. Convert it" in str(error.value)
    with pytest.raises(ValueError, match="expected UTF-8"):
        read_sentences([], str(path))


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_bytes("a red circle moves\r\na star\u2028spins\n".encode("utf-8-sig"))
    assert read_sentences(["first"], str(path)) == ["first", "a red circle moves", "a star\u2028spins"]


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "\u2028"}\n\n{"a": 2}\n', encoding="utf-8")
    assert read_jsonl(path) == [{"a": "\u2028"}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=rf"{path}:2: .*expected one JSON value"):
        read_jsonl(path)


def test_deep_json_is_a_clear_error():
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 100_000 + "]" * 100_000)
    assert parse_json(json.dumps({"a": [1]})) == {"a": [1]}
