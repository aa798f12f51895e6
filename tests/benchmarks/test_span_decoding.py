"""The benchmark of decoding: our answers and those of `generate` are equal, and differences are told."""

import json

import numpy as np
import pytest

from revision_jax.benchmarks import span_decoding
from revision_jax.prompts import AnswerGrammar


def test_both_programs_give_the_same_spans(torch, capsys):
    flags = ["--windows", "2", "--queries", "3", "--batch", "4", "--repeat", "1", "--rest", "0"]
    span_decoding.main(flags)
    report = json.loads(capsys.readouterr().out)
    assert report["different_answers"]["3"] > 1  # one answer to everything would prove little
    [row] = report["beside"]
    assert row["peer_is"] == "transformers' generate" and row["ratio"]["median"] > 0


def test_other_answers_are_told():
    grammar = AnswerGrammar(*(np.zeros((3, 1), np.int32),) * 2, np.array([[-2, -2], [1, 5], [1, 6]], np.int32), 4)
    asked = span_decoding.Asked(np.zeros((1, 1, 1)), ["a"], grammar, None)
    assert span_decoding.check_equal(asked, np.array([[1, 2]]), np.array([[1, 2]])) == 2
    with pytest.raises(ValueError, match=r"1 of 2 answers differ: \[1 6\] and \[1 5\] of window 0, question 1"):
        span_decoding.check_equal(asked, np.array([[1, 2]]), np.array([[1, 1]]))
