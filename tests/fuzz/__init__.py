"""Coverage-guided fuzzing of the event parser: `poe fuzz [--seconds N] [--keep]`."""
