"""Reading and writing the checkpoints of other projects: one table a model, one mechanism (`table`)."""
