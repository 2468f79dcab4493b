"""What the service promises of its speed and its size, measured side by side with what one would write without it.

`python -m tests.benchmarks [NAME...]`. Each benchmark is a coroutine that takes `is_quick` (a tenth of the size, to see that it runs:
its values mean nothing) and returns its results. What is measured always runs in processes of its own, so that neither the one that
drives the benchmark nor an earlier benchmark weighs on it.
"""
