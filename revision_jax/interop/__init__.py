"""Checkpoints of others, both ways: one table a model over one mechanism (`table`)."""
