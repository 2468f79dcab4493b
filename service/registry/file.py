"""The tenant registry as a YAML file: loaded as a whole or not at all, and loaded again when it changes.

A file that is wrong is refused with every problem in it, each with its line. At the start that ends the process; later the rules
that are in force stay in force.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service.clock import LoopClock
from service.domain.log_group import InvalidIdentityError, LogGroup, key_arn, key_region
from service.domain.tenancy import Decision, TenantRules
from service.ports import Clock
from service.registry.located_yaml import LocatedYaml, Location, YamlError
from service.registry.schema import TenantFile, entry_at

# A changed ConfigMap takes the kubelet up to a minute to show; a look at the file's status costs microseconds.
_POLL_INTERVAL_S: Final = 5.0
_MAX_LOGGED_PROBLEMS: Final = 20

# By the type of pydantic's error; `_reason` has those that need more than a constant.
_REASONS: Final = {
    "missing": "is missing",
    "string_type": "has to be text",
    "list_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "too_short": "is empty",
    "string_too_short": "is empty",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class FileProblem:
    """One thing wrong with the file: the line from 1, the field's path such as `tenants[0].keys.eu-west-1`, and what is wrong."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.line}: {self.field}: {self.reason}" if self.field else f"{self.line}: {self.reason}"


class TenantFileError(Exception):
    """The tenant file cannot be used. The text has a line for each problem, as compilers write it: file, line, field, reason."""

    def __init__(self, path: Path, problems: list[FileProblem]) -> None:
        super().__init__("\n".join(f"{path}:{problem}" for problem in problems))
        self.path = path
        self.problems = tuple(problems)


def load_tenant_file(path: Path) -> TenantRules:
    """Read and check the file. Raises TenantFileError with every problem in it."""
    return _load(path)[0]


def _load(path: Path) -> tuple[TenantRules, str]:
    """The rules, and a version that changes with the file's content."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise TenantFileError(path, [FileProblem(1, "", f"cannot be read: {e.strerror}")]) from e
    return _parse(path, content), hashlib.sha256(content).hexdigest()[:12]


def _parse(path: Path, content: bytes) -> TenantRules:
    try:
        document = LocatedYaml(content.decode())
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise TenantFileError(path, [FileProblem(line, "", "is not UTF-8")]) from e
    except YamlError as e:
        raise TenantFileError(path, [FileProblem(e.line, "", e.reason)]) from e
    problems = [
        *(FileProblem(line, _path(at), "is here a second time") for at, line in document.duplicate_keys),
        *(FileProblem(document.line_of(at), _path(at), reason) for at, reason in _contradictions(document.data)),
    ]
    try:
        tenant_file = TenantFile.model_validate(document.data)
    except ValidationError as e:
        problems += (_problem(document, error) for error in e.errors(include_url=False))
        raise TenantFileError(path, sorted(problems)) from e
    if problems:
        raise TenantFileError(path, sorted(problems))
    return tenant_file.rules()


# -- problems


def _contradictions(data: Any) -> Iterator[tuple[Location, str]]:
    """What only shows where several fields are looked at together. Passes over whatever the schema will refuse."""
    document = data if isinstance(data, dict) else {}
    tenants = document.get("tenants")
    ids: dict[str, int] = {}
    for index, tenant in enumerate(tenants if isinstance(tenants, list) else []):
        id_, keys = (tenant.get("id"), tenant.get("keys")) if isinstance(tenant, dict) else (None, None)
        if isinstance(id_, str) and ids.setdefault(id_, index) != index:
            yield ("tenants", index, "id"), f"{id_} is the id of tenants[{ids[id_]}] already"
        for region, key in keys.items() if isinstance(keys, dict) else ():
            if isinstance(region, str) and _region_of(key) not in {None, region}:
                yield ("tenants", index, "keys", region), f"the key is in {_region_of(key)}, not in {region}"
    default = document.get("default_tenant")
    if isinstance(default, str) and default not in ids:
        yield ("default_tenant",), f"there is no tenant {default}"


def _region_of(key: Any) -> str | None:
    try:
        return key_region(key_arn(key))
    except InvalidIdentityError:
        return None


def _problem(document: LocatedYaml, error: ErrorDetails) -> FileProblem:
    location = error["loc"]
    return FileProblem(document.line_of(location), _path(location), _reason(document, error))


def _reason(document: LocatedYaml, error: ErrorDetails) -> str:
    """What is wrong in the words of somebody who edits YAML; pydantic's own are about Python."""
    location, value = error["loc"], error["input"]
    match error["type"]:
        case _ if value is None:
            return "is empty"
        case "extra_forbidden":
            model = entry_at(location[:-1])
            return f"is no field here; there are {', '.join(model.model_fields)}" if model else "is no field here"
        case "string_type" if not isinstance(value, list | dict):
            written = document.scalar_at(location)
            return f'has to be in quotes ("{written}"): YAML reads {written} as {_yaml_kind(value)}'
        case "literal_error":
            return f"has to be {error['ctx']['expected']}"
        case "value_error":
            return str(error["ctx"]["error"])
        case other:
            return _REASONS.get(other, error["msg"])


def _yaml_kind(value: object) -> str:
    if isinstance(value, bool):
        return f"{value}".lower()
    return f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _path(location: Location) -> str:
    """`tenants[0].keys.eu-west-1`; pydantic's mark for a mapping's key, `[key]`, is left out."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "[key]")
    return "".join(parts).removeprefix(".")


# -- the directory


class FileDirectory:
    """Decides by the file as it was when it last was right. Raises TenantFileError when it is wrong at the start.

    `version` changes with the content of the file in force, `loaded_at_ms` is since when it is (ms since the epoch), `last_error`
    is why the file as it is now was refused, None where it was not.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None, poll_interval_s: float = _POLL_INTERVAL_S) -> None:
        self._path = path
        self._clock = clock or LoopClock()
        self._poll_interval_s = poll_interval_s
        self._seen = _status(path)
        self._accept(*_load(path))

    def _accept(self, rules: TenantRules, version: str) -> None:
        self._rules = rules
        self.version = version
        self.loaded_at_ms = self._clock.epoch_ms()
        self.last_error: TenantFileError | None = None
        _log.info("tenant_file_loaded", path=str(self._path), version=version, tenants=len(rules))

    async def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide by the rules in force; never raises, since they are in memory."""
        return self._rules.decide(log_group, tags)

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change what the rules in force decide."""
        return self._rules.depends_on_tags(log_group)

    async def watch(self) -> None:
        """Look every few seconds whether the file has changed, until cancelled. Never returns.

        Polls, since a ConfigMap changes by a swap of symbolic links, and a file on a network drive tells nobody.
        """
        while True:
            await asyncio.sleep(self._poll_interval_s)
            await self.refresh()

    async def refresh(self) -> bool:
        """Load the file if it has changed since the last look; returns whether its rules are now in force.

        A wrong file is logged as an error once for each change, and shown as `last_error` until it is mended.
        """
        status = _status(self._path)
        if status == self._seen:
            return False
        self._seen = status
        try:
            rules, version = await asyncio.to_thread(_load, self._path)  # seconds of parsing for ten thousand tenants
        except TenantFileError as e:
            self.last_error = e
            problems = [str(problem) for problem in e.problems[:_MAX_LOGGED_PROBLEMS]]
            _log.error(
                "tenant_file_refused",
                path=str(self._path),
                problems=problems,
                problem_count=len(e.problems),
                version_in_force=self.version,
            )
            return False
        self._accept(rules, version)
        return True


def _status(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does, also when a symbolic link on the way to it is swapped; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
