"""The tenant registry as YAML: one file, or a folder of them; loaded as a whole or not at all, and loaded again when it changes.

A folder's files are read in the order of their names and are as one file: lists are joined, anything else is in one of them.
What is wrong is refused with every problem, each with its file and line. At the start that ends the process; later the rules that
are in force stay in force.
"""

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

import structlog

from service.clock import LoopClock
from service.domain.log_group import AccountId, KeyRef, Lane, LogGroup, Region, TenantId
from service.domain.reach import reach_of
from service.domain.tenancy import Decision, TenantRules
from service.ports import Clock
from service.registry.document import check, path_of, told
from service.registry.located_yaml import LocatedYaml, Location, YamlError
from service.registry.schema import Contradiction, TenantFile

# A changed ConfigMap takes the kubelet up to a minute to show; a look at the file's status costs microseconds.
_POLL_INTERVAL_S: Final = 5.0
_MAX_LOGGED_PROBLEMS: Final = 20
_VERSIONS: Final = get_args(TenantFile.model_fields["version"].annotation)
_SUFFIXES: Final = frozenset({".yaml", ".yml"})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class FileProblem:
    """One thing wrong with a file: the line from 1, the field's path such as `tenants[0].keys.eu-west-1`, and what is wrong.

    `file` is its name in a folder, empty where the registry is a single file.
    """

    file: str
    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else f"{self.line}"
        return f"{place}: {self.field}: {self.reason}" if self.field else f"{place}: {self.reason}"


class TenantFileError(Exception):
    """The tenant file cannot be used. The text has a line for each problem, as compilers write it: file, line, field, reason."""

    def __init__(self, path: Path, problems: list[FileProblem]) -> None:
        super().__init__("\n".join(f"{path}{'/' if problem.file else ':'}{problem}" for problem in problems))
        self.path = path
        self.problems = tuple(problems)


def load_tenant_file(path: Path) -> TenantRules:
    """Read and check the file, or the folder's files. Raises TenantFileError with every problem in it."""
    return _load_rules(path)[0]


def load_tenants(path: Path) -> TenantFile:
    """The same before it is made into rules, to be stored elsewhere. Raises TenantFileError."""
    return _load(path)[0]


def _load_rules(path: Path) -> tuple[TenantRules, str]:
    tenant_file, version = _load(path)
    return tenant_file.rules(), version


def _load(path: Path) -> tuple[TenantFile, str]:
    """What the file or folder holds, and a version that changes with its content."""
    contents = _contents(path)
    tenant_file = _parse(path, contents)
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}:{len(content)}:".encode() if name else b"")
        digest.update(content)
    return tenant_file, digest.hexdigest()[:12]


def _contents(path: Path) -> dict[str, bytes]:
    """Bytes by the file's name in the folder; a single file has no name."""
    try:
        if not path.is_dir():
            return {"": path.read_bytes()}
        contents = {file.name: file.read_bytes() for file in _files(path)}
    except OSError as e:
        name = Path(e.filename).name if path.is_dir() and e.filename else ""
        raise TenantFileError(path, [FileProblem(name, 1, "", f"cannot be read: {e.strerror}")]) from e
    if not contents:
        raise TenantFileError(path, [FileProblem("", 1, "", "has no file whose name ends in .yaml or .yml")])
    return contents


def _files(folder: Path) -> list[Path]:
    """A ConfigMap's real files are in hidden folders, and the visible names are links to them."""
    return sorted(f for f in folder.iterdir() if f.suffix in _SUFFIXES and not f.name.startswith(".") and f.is_file())


def _parse(path: Path, contents: Mapping[str, bytes]) -> TenantFile:
    problems: list[FileProblem] = []
    documents: dict[str, LocatedYaml] = {}
    for name, content in contents.items():
        try:
            documents[name] = document = LocatedYaml(content.decode())
        except UnicodeDecodeError as e:
            problems.append(FileProblem(name, content.count(b"\n", 0, e.start) + 1, "", "is not UTF-8"))
        except YamlError as e:
            problems.append(FileProblem(name, e.line, "", e.reason))
        else:
            problems += (
                FileProblem(name, line, path_of(at), "is here a second time") for at, line in document.duplicate_keys
            )
    if len(documents) < len(contents):
        raise TenantFileError(path, sorted(problems))
    joined = _Joined(documents)
    tenant_file, found = check(joined.data, scalar_at=joined.scalar_at)
    problems += [*joined.problems, *map(joined.problem, found)]
    if tenant_file is None or problems:
        raise TenantFileError(path, sorted(set(problems)))
    return tenant_file


class _Joined:
    """Several documents as one, and where in them each part of it is written. A single document is left as it is.

    `problems` are those of joining them; places are those of the joined document.
    """

    def __init__(self, documents: Mapping[str, LocatedYaml]) -> None:
        self._documents = documents
        self._is_single = len(documents) == 1
        self._parts: dict[
            str, list[tuple[str, int]]
        ] = {}  # by field: the files that have it, and where their part starts
        self.problems: list[FileProblem] = []
        if self._is_single:
            [document] = documents.values()
            self.data = document.data
            return
        self.data = {}
        for name, document in documents.items():
            self._add(name, document.data)

    def _add(self, name: str, data: Any) -> None:
        if not isinstance(data, dict):
            self._refuse(name, (), "is empty" if data is None else "has to be a mapping")
            return
        if (version := data.get("version")) not in _VERSIONS or isinstance(version, bool):
            is_there = "version" in data
            self._refuse(name, ("version",), f"has to be {_VERSIONS[0]}" if is_there else "is missing")
        for field, value in data.items():
            if not isinstance(field, str):
                self._refuse(name, (), f"has a field that is no text: {field!r}")
            elif field == "version":
                self.data[field] = _VERSIONS[0]  # what is wrong with it has been told
            elif field not in self.data:
                self.data[field] = list(value) if isinstance(value, list) else value
                self._parts[field] = [(name, 0)]
            elif isinstance(value, list) and isinstance(joined := self.data[field], list):
                self._parts[field].append((name, len(joined)))
                joined += value
            else:
                self._refuse(name, (field,), f"is in {self._parts[field][0][0]} already")

    def _refuse(self, name: str, at: Location, reason: str) -> None:
        self.problems.append(FileProblem(name, self._documents[name].line_of(at), path_of(at), reason))

    def scalar_at(self, location: Location) -> str | None:
        name, at = self._written(location)
        return self._documents[name].scalar_at(at)

    def problem(self, problem: Contradiction) -> FileProblem:
        name, at = self._written(problem.at)
        return FileProblem(name, self._documents[name].line_of(at), path_of(at), told(problem, self._called))

    def _called(self, location: Location) -> str:
        name, at = self._written(location)
        line = self._documents[name].line_of(at)
        return f"{path_of(at)} in {name}:{line}" if name else f"{path_of(at)} on line {line}"

    def _written(self, location: Location) -> tuple[str, Location]:
        """The file in which a part of the joined document is written, and where in it."""
        first = next(iter(self._documents))
        if self._is_single or not location or location[0] not in self._parts:
            return first, location
        parts = self._parts[str(location[0])]
        if len(location) == 1 or not isinstance(location[1], int):
            return parts[0][0], location
        name, start = max((part for part in parts if part[1] <= location[1]), key=lambda part: part[1])
        return name, (location[0], location[1] - start, *location[2:])


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
        self._refreshing = asyncio.Lock()  # whoever asks while the file is being read waits for what it says
        self._seen = _status(path)
        self._accept(*_load_rules(path))

    def _accept(self, rules: TenantRules, version: str) -> None:
        self._rules = rules
        self.version = version
        self.loaded_at_ms = self._clock.epoch_ms()
        self.last_error: TenantFileError | None = None
        _log.info("tenant_file_loaded", path=str(self._path), version=version, tenants=len(rules))
        for rule, first in islice(rules.never_first(), _MAX_LOGGED_PROBLEMS):
            _log.warning("tenant_rule_never_decides", rule=str(rule), same_as=str(first))

    @property
    def is_refused(self) -> bool:
        """Whether the file as it is now was refused."""
        return self.last_error is not None

    async def decide(self, log_group: LogGroup, tags: Mapping[str, str] | None) -> Decision:
        """Decide by the rules in force; never raises, since they are in memory."""
        return self._rules.decide(log_group, tags)

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        """Whether the group's tags may change what the rules in force decide."""
        return self._rules.depends_on_tags(log_group)

    async def lists_ignored(self, account: AccountId) -> bool:  # noqa: ARG002  the port's
        """Whether the tag `logwarden:ignore` counts where nothing shows a group's tags."""
        return self._rules.lists_ignored

    def at_hand(self, account: AccountId) -> TenantRules:  # noqa: ARG002  the port's
        """The rules in force."""
        return self._rules

    async def lists(self, account: AccountId) -> bool:
        """Whether a rule in force lists the account."""
        return self._rules.lists(account)

    async def renew(self, account: AccountId) -> None:  # noqa: ARG002  the port's
        """Look whether the file has changed."""
        await self.refresh()

    async def lanes(self) -> Collection[Lane]:
        """Where the file's rules may give log groups to anybody."""
        await self.refresh()
        return await asyncio.to_thread(
            lambda rules: reach_of(rules).lanes, self._rules
        )  # a second for ten thousand tenants

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]]:
        """Where they may give some to these tenants, and the keys: owners of lanes look at the file anew, too."""
        await self.refresh()
        return await asyncio.to_thread(_lanes_of, self._rules, tenants)

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]]:
        """Every tenant's keys, by the rules in force."""
        return self._rules.keys

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
        async with self._refreshing:
            return await self._refresh()

    async def _refresh(self) -> bool:
        status = _status(self._path)
        if status == self._seen:
            return False
        self._seen = status
        try:
            rules, version = await asyncio.to_thread(
                _load_rules, self._path
            )  # seconds of parsing for ten thousand tenants
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


def _lanes_of(rules: TenantRules, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]]:
    reach = reach_of(rules)
    return {each: reach.lanes_of(rules.tenants[each]) for each in tenants if each in rules.tenants}


def _status(path: Path) -> tuple[tuple[str | int, ...], ...] | None:
    """What changes when the file, or a folder's files do, also when a link on the way is swapped; None where nothing is there."""
    try:
        files = [path, *_files(path)] if path.is_dir() else [path]
        statuses = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple((name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in statuses)
