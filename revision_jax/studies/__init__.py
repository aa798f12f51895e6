"""Studies: grids of trainings and evaluations that answer a question, with what they share trained once."""
