"""`python -m tests.benchmarks [NAME...]`: run benchmarks, by default all, and print a line for each value: name, value, goal, ok or short."""

import argparse
import asyncio
import json
import os
import platform
import sys
import traceback
from pathlib import Path

from tests.benchmarks.accounts import accounts
from tests.benchmarks.associate_cpu import associate_cpu
from tests.benchmarks.engine import engine, engine_slow
from tests.benchmarks.first_look import first_look
from tests.benchmarks.ingest_filter import ingest_filter
from tests.benchmarks.memory import memory_lanes, memory_waiting
from tests.benchmarks.neighbour import neighbour
from tests.benchmarks.quota import quota, quota_churn, quota_cold, quota_slow_broker
from tests.benchmarks.replay import replay
from tests.benchmarks.result import Benchmark, Result
from tests.benchmarks.tenancy import tenancy

BENCHMARKS: dict[str, Benchmark] = {
    "quota": quota,
    "quota-cold": quota_cold,
    "quota-churn": quota_churn,
    "quota-slow-broker": quota_slow_broker,
    "neighbour": neighbour,
    "engine": engine,
    "engine-slow": engine_slow,
    "replay": replay,
    "ingest-filter": ingest_filter,
    "first-look": first_look,
    "memory-waiting": memory_waiting,
    "memory-lanes": memory_lanes,
    "associate-cpu": associate_cpu,
    "accounts": accounts,
    "tenancy": tenancy,
}
_TIME_LIMIT_S = 180  # each is made for 90; a busy machine starts a broker late


def main() -> int:
    """Exit status 0, 1 when a benchmark did not run, 2 with --strict when a value falls short."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write values, details and the machine's load here")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the size: shows that it runs, the values mean nothing"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 2 when a value falls short of its goal")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    # As in the image, where every module is compiled: or each replica would compile its own on the cores that are measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    results: list[Result] = []
    report: list[dict] = []
    failed = []
    for name in arguments.names or BENCHMARKS:
        load = os.getloadavg()[0]
        try:
            values = asyncio.run(_within_limit(BENCHMARKS[name], arguments.quick))
        except Exception:  # noqa: BLE001  whatever it is, the other benchmarks are run
            failed.append(name)
            traceback.print_exc()
            print(f"{name} failed", flush=True)
            continue
        for result in values:
            print(result, flush=True)
            shown = " ".join(f"{key}={value:.5g}" for key, value in result.details.items())
            print(f"  {shown} load_before={load:.2f}", file=sys.stderr, flush=True)
            results.append(result)
            report.append(result.as_dict() | {"load_before": load})
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()}
        content = {"is_quick": arguments.quick, "machine": machine, "results": report, "failed": failed}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    if failed:
        return 1
    return 2 if arguments.strict and not all(result.is_ok for result in results) else 0


async def _within_limit(benchmark: Benchmark, is_quick: bool) -> list[Result]:
    async with asyncio.timeout(_TIME_LIMIT_S):
        return await benchmark(is_quick)


if __name__ == "__main__":
    sys.exit(main())
