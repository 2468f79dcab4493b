"""`python -m tests.chaos`: one run or several, with exit status 1 if any was wrong."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from tests.chaos.run import chaos


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="runs, with consecutive seeds")
    parser.add_argument("--events", type=int, default=20_000, help="log groups of a run")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two mishaps, on average")
    parser.add_argument("--hangs", action=argparse.BooleanOptionalAction, default=True, help="a broker that hangs")
    parser.add_argument("--keep", type=Path, help="an existing folder for the replicas' logs")
    arguments = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is no news here
    is_right = True
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        report = asyncio.run(
            chaos(
                seed=seed,
                events=arguments.events,
                pause_s=arguments.pause,
                hangs=arguments.hangs,
                keep=arguments.keep,
            )
        )
        print(report, flush=True)
        for group, key in list(report.wrong.items())[:10]:
            print(f"  {group}: {key}")
        is_right &= report.is_right
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
