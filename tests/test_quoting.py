"""Text of others in messages."""

import argparse

import pytest

from revision_jax import ground, verb
from revision_jax.quoting import escaped, quoted


def test_control_characters_are_escapes():
    assert escaped("a\x1b[31mb\n\u202e\u2028\x85é😀") == "a\\x1b[31mb\\n\\u202e\\u2028\\x85é😀"
    assert escaped("a\nb\x07", keep="\n") == "a\nb\\x07"


def test_a_query_is_told_in_80_characters():
    assert quoted("a star") == "'a star'"
    assert quoted("x" * 80) == f"'{'x' * 80}'" and quoted("x" * 81) == f"'{'x' * 80}...'"


def test_an_error_of_a_verb_holds_no_control_characters(capsys):
    def act(args):
        raise ValueError("of\n  a file \x1b]0;owned\x07")

    assert verb.run(act, argparse.Namespace(debug=False)) == 2
    assert capsys.readouterr().err == "error: of\n  a file \\x1b]0;owned\\x07\n"


@pytest.mark.parametrize("words", [10_000, 30])
def test_a_long_query_is_refused_in_few_words(words, trained_run, capsys):
    query = " ".join(["circle"] * words) + " \x1b[31m"
    assert ground.main([str(trained_run.video), query, "--workdir", str(trained_run.workdir)]) == 2
    err = capsys.readouterr().err
    assert f"the query '{query[:80]}...' needs" in err and len(err) < 400 and "\x1b" not in err
