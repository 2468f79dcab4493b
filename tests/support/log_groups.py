"""CloudWatch Logs in memory, for tests of the core. tests/contract/test_log_groups.py holds it to what the real adapter does."""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.domain.log_group import KeyArn, Lane, LogGroup, key_region
from service.domain.outcome import CallFailedError, FailureClass
from service.ports import MAX_DESCRIBED, LogGroupPage


@dataclass(slots=True)
class FakeLogGroups:
    """Log groups and their keys, which keys Logs may use, and what is to go wrong next.

    `failures` are raised one a call; a None lets a call pass. `failure` is raised by every call while it is set. `calls` are the
    AssociateKmsKey calls in their order, failed ones too.
    """

    groups: dict[LogGroup, KeyArn | None] = field(default_factory=dict)
    tags: dict[LogGroup, Mapping[str, str]] = field(default_factory=dict)
    usable_keys: set[KeyArn] = field(default_factory=set)
    disabled_keys: set[KeyArn] = field(default_factory=set)
    failures: deque[FailureClass | None] = field(default_factory=deque)
    failure: FailureClass | None = None
    calls: list[tuple[LogGroup, KeyArn]] = field(default_factory=list)

    async def ready(self, lane: Lane) -> None:
        pass

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        self.calls.append((log_group, key))
        self._fail_if_told()
        if log_group.name.lower().startswith("aws/"):
            raise CallFailedError(FailureClass.RESERVED_NAME, log_group.name)
        if log_group not in self.groups:
            raise CallFailedError(FailureClass.LOG_GROUP_NOT_FOUND, log_group.name)
        if key in self.disabled_keys or key_region(key) != log_group.region:
            raise CallFailedError(FailureClass.KEY_NOT_FOUND, key)
        if key not in self.usable_keys:
            raise CallFailedError(FailureClass.KEY_NOT_USABLE, key)
        self.groups[log_group] = key

    async def tags_of(self, log_group: LogGroup) -> Mapping[str, str]:
        self._fail_if_told()
        if log_group not in self.groups:
            raise CallFailedError(FailureClass.LOG_GROUP_NOT_FOUND, log_group.name)
        return self.tags.get(log_group, {})

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        if len(names) > MAX_DESCRIBED:
            raise ValueError(f"{len(names)} log groups")
        if not names:
            return {}
        self._fail_if_told()
        wanted = {LogGroup(lane.account, lane.region, name) for name in names}
        return {group.name: self.groups[group] for group in wanted & self.groups.keys()}

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        self._fail_if_told()
        names = sorted(group.name for group in self.groups if group.lane == lane and group.name > (token or ""))
        page = names[:MAX_DESCRIBED]
        keys = {name: self.groups[LogGroup(lane.account, lane.region, name)] for name in page}
        return LogGroupPage(keys, page[-1] if len(names) > len(page) else None)

    async def with_tag(self, lane: Lane, tag: str, token: str | None) -> tuple[Collection[str], str | None]:
        self._fail_if_told()
        tagged = (each for each in self.groups if tag in self.tags.get(each, {}))
        return sorted(each.name for each in tagged if each.lane == lane), None

    def _fail_if_told(self) -> None:
        failure = (self.failures.popleft() if self.failures else None) or self.failure
        if failure is not None:
            raise CallFailedError(failure, "as told")
