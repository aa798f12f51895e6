"""Evaluation of a run: methods that answer a split's queries, what they answered, and what it is worth."""
