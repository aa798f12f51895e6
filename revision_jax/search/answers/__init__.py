"""Answers: questions asked of cached rows, decoding under the grammar, confidence."""
