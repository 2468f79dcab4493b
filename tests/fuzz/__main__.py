"""`python -m tests.fuzz`: start from the event files, and look for inputs for which a promise of the parser does not hold.

Exit status 1 if there are any: they are minimised and kept in `tests/events/regressions`, where the ordinary tests replay them. With
--keep, so are small inputs that show something that no event file shows.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from service.domain.events.cloudtrail import TRIGGERS
from tests.events import EVENTS, REGRESSIONS
from tests.fuzz.minimise import minimised
from tests.fuzz.target import behaviours, check

_MAX_INPUT_BYTES = 8192  # of a typical record, several times; longer ones are slow and show no more
_MAX_KEPT_BYTES = 600
_MAX_KEPT = 20
_WORDS = (
    *TRIGGERS, "logs.amazonaws.com", "log-group-created", "eventVersion", "eventSource", "eventName", "Records", "records",
    "detail", "Message", "body", "data", "data_base64", "specversion", "awslogs", "kinesis", "kinesisSchemaVersion", "payload",
    "logEvents", "requestParameters", "logGroupName", "resourceArn", "recipientAccountId", "awsRegion", "kmsKeyId", "tags", "\\u",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="how long")
    parser.add_argument("--keep", action="store_true", help="keep small inputs that show something new")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; `uv sync --group fuzz` does that")
    seeds = [path.read_bytes() for path in EVENTS.rglob("*") if path.suffix in {".json", ".gz", ".bin"}]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        is_right = _run(folder, seeds, arguments.seconds)
        for path in folder.glob("artifacts/crash-*"):
            value = path.read_bytes()
            error = _error(value)
            print(f"wrong: {error!r}", flush=True)
            _keep("wrong", minimised(value, lambda shorter, error=error: _error(shorter) == error))  # type: ignore[misc]
        slow = [*folder.glob("artifacts/timeout-*"), *folder.glob("artifacts/oom-*")]
        for path in slow:
            _keep(path.name.partition("-")[0], path.read_bytes())
        if arguments.keep:
            _keep_new([path.read_bytes() for path in (folder / "corpus").iterdir()], seeds)
    return 0 if is_right else 1


def _run(folder: Path, seeds: list[bytes], seconds: int) -> bool:
    """Whether libFuzzer found nothing wrong; what it found is in `artifacts`, every input that reached something new in `corpus`."""
    for name in ("corpus", "seeds", "artifacts"):
        (folder / name).mkdir()
    for number, seed in enumerate(seeds):
        (folder / "seeds" / str(number)).write_bytes(seed)
    words = "".join(f'"{word}"\n'.replace("\\", "\\\\") for word in _WORDS)
    (folder / "words").write_text(words)
    ended = subprocess.run(
        [
            sys.executable, "-m", "tests.fuzz.engine", f"-max_total_time={seconds}", f"-max_len={_MAX_INPUT_BYTES}",
            f"-dict={folder / 'words'}", f"-artifact_prefix={folder / 'artifacts'}/", "-timeout=10", "-rss_limit_mb=1024",
            "-print_final_stats=1", "-verbosity=0", str(folder / "corpus"), str(folder / "seeds"),
        ],
        check=False,
    )  # fmt: skip
    return ended.returncode == 0


def _error(value: bytes) -> str | None:
    """What is wrong with an input, None where nothing is."""
    try:
        check(value)
    except Exception as e:  # noqa: BLE001  whatever it is, it is what we look for
        return f"{type(e).__name__}: {e}"[:80]
    return None


def _keep_new(inputs: list[bytes], seeds: list[bytes]) -> None:
    """Keep, for everything found that no seed shows, the smallest input that shows it."""
    known = frozenset().union(*map(behaviours, seeds))
    kept = 0
    for value in sorted(inputs, key=len):
        for behaviour in behaviours(value) - known:
            small = minimised(value, lambda shorter, behaviour=behaviour: behaviour in behaviours(shorter))  # type: ignore[misc]
            known |= behaviours(small)
            if len(small) <= _MAX_KEPT_BYTES and kept < _MAX_KEPT:
                kept += 1
                print(f"new: {behaviour[1]}")
                _keep("found", small)


def _keep(what: str, value: bytes) -> None:
    path = REGRESSIONS / f"{what}_{hashlib.sha256(value).hexdigest()[:12]}.bin"
    path.write_bytes(value)
    print(f"kept {path.relative_to(EVENTS.parent.parent)}, {len(value)} bytes", flush=True)


if __name__ == "__main__":
    sys.exit(main())
