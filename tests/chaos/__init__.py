"""Everything goes wrong at once, from a seed: `uv run poe chaos --seed 1 --events 20000`; a short form is in the test suite."""
