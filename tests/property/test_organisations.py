"""Whole organisations in virtual time: whatever strangers, AWS and Kafka do, no group is put under another tenant's key, and at rest all is right.

Real is everything from the topics to the ports; the rest is played: AWS, with all that goes wrong there and the events that it writes,
strangers who change groups, a registry whose versions change, and owners of partitions who come, go and are killed. What should be is
told by an oracle that reads the tenant file in the most obvious way.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from random import Random
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.ignored import FRESH_S
from service.domain.command import EnsureCommand, Trigger
from service.domain.log_group import AccountId, KeyArn, KeyRef, Lane, LogGroup, Region, TenantId
from service.domain.outcome import CallFailedError, FailureClass
from service.domain.reach import reach_of
from service.domain.sweep import SweepCommand, new_sweep_id
from service.domain.tenancy import IGNORE_TAG, Decision, TenantRules
from service.ports import LogGroupPage, OutgoingRecord
from service.registry.document import check
from tests.support.broker import MemoryBroker, MemoryConsumer
from tests.support.keys import FakeKeys
from tests.support.replica import DEAD_LETTERS, SOURCE, WORK, Replica
from tests.support.virtual_time import VirtualClock, run_in_virtual_time

LANES: Final = [Lane(AccountId(f"{n}" * 12), Region(region)) for n, region in product("12", ("eu-west-1", "us-east-1"))]
TENANTS: Final = ("a", "b", "c")
DELAYS_S: Final = (30.0, 120.0, 600.0)
CHAOS_S: Final = 150.0  # for so long things change and fail
LAG_S: Final = 1.0  # for so long DescribeLogGroups may show the key before
TAGS_ARE_OLD_S: Final = 10.0  # a command acts by tags that it looked up this long ago at most, whatever it waited for
BELIEVED_S: Final = 60.0  # for so long after it came to Kafka a record of a new group proves its tags
CALL_TAKES_S: Final = 30.0  # from when nothing was found that speaks against a call, at most: its turn, and four tries
PASSING: Final = (FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE, FailureClass.OPERATION_ABORTED)
NAMES: Final = [
    *(f"/{tenant}/{name}" for tenant in TENANTS for name in ("x", "scratch/y")),
    *(f"/shared/{tenant}/x" for tenant in (*TENANTS, "nobody")),
    *("/tagged/x", "/tagged/y", "/other"),
]

Document = dict[str, Any]
Tags = Mapping[str, str]


def key_of(tenant: str, region: str, generation: int) -> KeyArn:
    return KeyArn(f"arn:aws:kms:{region}:{'9' * 12}:key/{tenant}-{generation}")


def tenant_of(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[0]


# -- what should be: the tenant file, read in the most obvious way


@dataclass(frozen=True)
class Right:
    tenant: str
    key: str
    overwrite: str


def right(document: Document, group: LogGroup, tags: Tags) -> Right | None:
    """Whose the group is and which key it should have; None where nothing may be done to it."""
    listed = {account for rule in rules_of(document) for account in rule["accounts"]}
    ignored = document["ignore_tag"] != "never" and says_ignore(tags)
    if ignored or group.account not in listed or any(matches(each, group, tags) for each in document["exclude"]):
        return None
    claims = [tenant["id"] for tenant in document["tenants"] for rule in tenant["rules"] if matches(rule, group, tags)]
    for rule in document["shared_rules"]:
        found = re.match(rule["name_regex"], group.name)
        if found and matches(rule, group, tags):
            claims.append(found["tenant"])
    if not claims and "default_tenant" in document:
        claims = [document["default_tenant"]]
    if document["match"] == "first-match":
        claims = claims[:1]
    [tenant] = [t for t in document["tenants"] if {t["id"]} == set(claims)] or [None]
    if tenant is None or any(matches(each, group, tags) for each in tenant["exclude"]):
        return None
    key = tenant["keys"].get(group.region)
    return Right(tenant["id"], key, tenant["overwrite"]) if key else None


def says_ignore(tags: Tags) -> bool:
    return tags.get(IGNORE_TAG, "false") != "false"


def rules_of(document: Document) -> Iterator[Document]:
    for tenant in document["tenants"]:
        yield from tenant["rules"]
    yield from document["shared_rules"]


def matches(conditions: Document, group: LogGroup, tags: Tags) -> bool:
    return (
        group.account in conditions.get("accounts", [group.account])
        and group.region in conditions.get("regions", [group.region])
        and any(fnmatchcase(group.name, glob) for glob in conditions.get("names", ["*"]))
        and all(key in tags and tags[key] in values for key, values in conditions.get("tags", {}).items())
    )


# -- a random organisation


def document(dice: Random, generation: int = 0) -> Document:
    """A tenant file that says anything of this small world; it may contradict itself."""
    accounts = sorted({lane.account for lane in LANES})

    def some(values: Collection[str]) -> list[str]:
        return dice.sample(sorted(values), dice.choice([1, *[len(values)] * 3]))

    def rule(tenant: str) -> Document:
        return {
            "accounts": some(accounts),
            **dice.choice(
                [
                    {"names": [f"/{tenant}/*"]},
                    {"names": [f"/{tenant}/*", "/other"]},
                    {"names": ["/tagged/*"], "tags": {"tenant": [tenant]}},
                    {"names": ["/tagged/*"], "tags": {"tenant": [tenant, "both"]}},
                    {"names": [f"/{tenant}/*"], "regions": ["eu-west-1"]},
                ]
            ),
        }

    tenants = [
        {
            "id": tenant,
            "keys": {region: key_of(tenant, region, generation) for region in some(["eu-west-1", "us-east-1"])},
            "rules": [rule(tenant) for _ in range(dice.randint(1, 4))],
            "exclude": dice.choice([[], [], [{"names": ["*/scratch/*"], "reason": "scratch"}]]),
            "overwrite": dice.choice(["always", "always", "when-no-key", "never"]),
        }
        for tenant in TENANTS
    ]
    shared = {"accounts": some(accounts), "name_regex": "^/shared/(?P<tenant>[a-z]+)/"}
    return {
        "version": 1,
        "match": dice.choice(["all-agree", "first-match"]),
        "ignore_tag": dice.choice(["never", "listed", "listed", "always"]),
        "tenants": tenants,
        "shared_rules": dice.choice([[], [shared], [shared]]),
        "exclude": dice.choice([[], [{"names": ["/b/scratch/*"]}], [{"regions": ["us-east-1"], "names": ["/other"]}]]),
        **dice.choice([{}, {}, {"default_tenant": dice.choice(TENANTS)}]),
    }


def rotated(of: Document, generation: int) -> Document:
    """The same with other keys."""
    tenants = [
        tenant | {"keys": {region: key_of(tenant["id"], region, generation) for region in tenant["keys"]}}
        for tenant in of["tenants"]
    ]
    return of | {"tenants": tenants}


@dataclass
class Registry:
    """The port TenantDirectory over the last document that was right; one that is refused leaves it in force."""

    document: Document = field(default_factory=dict)
    rules: TenantRules = field(default_factory=lambda: TenantRules(tenants=[]))
    is_away: bool = False

    def load(self, new: Document) -> bool:
        parsed, problems = check(new)
        if parsed is None or problems:
            return False
        self.document, self.rules = new, parsed.rules()
        return True

    async def decide(self, log_group: LogGroup, tags: Tags | None) -> Decision:
        self._ask()
        return self.rules.decide(log_group, tags)

    async def depends_on_tags(self, log_group: LogGroup) -> bool:
        self._ask()
        return self.rules.depends_on_tags(log_group)

    async def lists(self, account: AccountId) -> bool:
        self._ask()
        return self.rules.lists(account)

    async def lists_ignored(self, account: AccountId) -> bool:
        self._ask()
        return self.rules.lists_ignored

    def at_hand(self, account: AccountId) -> TenantRules | None:
        return None if self.is_away else self.rules

    async def renew(self, account: AccountId) -> None:
        pass

    async def lanes(self) -> Collection[Lane]:
        return reach_of(self.rules).lanes

    async def lanes_of(self, tenants: Collection[TenantId]) -> Mapping[TenantId, Mapping[Lane, KeyRef]]:
        reach = reach_of(self.rules)
        return {each: reach.lanes_of(self.rules.tenants[each]) for each in tenants if each in self.rules.tenants}

    async def keys(self) -> Mapping[TenantId, Mapping[Region, KeyRef]]:
        return self.rules.keys

    def _ask(self) -> None:
        if self.is_away:
            raise CallFailedError(FailureClass.REGISTRY_UNAVAILABLE, "as told")


# -- AWS


@dataclass
class Group:
    tags: Tags
    key: KeyArn | None = None
    key_before: KeyArn | None = None
    changed_at: float = float("-inf")


class Aws:
    """The port LogGroups, and what strangers do. Every call that has an effect is told in events, once or more, sooner or later.

    `wrongs` is what Logwarden must never do, as it happens.
    """

    def __init__(self, *, registry: Registry, broker: MemoryBroker, dice: Random) -> None:
        self._registry = registry
        self._broker = broker
        self._dice = dice
        self.groups: dict[LogGroup, Group] = {}
        self.failing = 0.0  # the share of calls that fail
        self.refused_keys: set[KeyArn] = set()
        self.wrongs: list[str] = []
        self.calls = 0
        self.events = 0  # that have not reached Kafka yet
        self._tags: defaultdict[LogGroup, list[tuple[float, Tags]]] = defaultdict(list)
        self._seen: dict[LogGroup, float] = {}  # when we last described it
        self._not_ignored_until: dict[LogGroup, float] = {}  # it was shown without that tag, which may be believed
        self._changing: set[LogGroup] = set()

    # what strangers do

    def create(self, group: LogGroup, tags: Tags, key: KeyArn | None) -> None:
        if group not in self.groups:
            self.groups[group] = Group(tags, key, key, _now())
            self._tags[group].append((_now(), tags))
            self._tell("CreateLogGroup", group, {"tags": dict(tags)} | ({"kmsKeyId": key} if key else {}))

    def delete(self, group: LogGroup) -> None:
        if self.groups.pop(group, None):
            self._tell("DeleteLogGroup", group, {})

    def set_tags(self, group: LogGroup, tags: Tags) -> None:
        if group in self.groups:
            self.groups[group].tags = tags
            self._tags[group].append((_now(), tags))
            self._tell("TagResource", group, {"resourceArn": group.arn, "tags": dict(tags)})

    def set_key(self, group: LogGroup, key: KeyArn | None) -> None:
        if group in self.groups:
            self._change(group, key)
            name = "AssociateKmsKey" if key else "DisassociateKmsKey"
            self._tell(name, group, {"kmsKeyId": key} if key else {})

    def _change(self, name: LogGroup, key: KeyArn | None) -> None:
        group = self.groups[name]
        group.key, group.key_before, group.changed_at = key, self._shown(group), _now()

    def _tell(self, event: str, group: LogGroup, parameters: Document) -> None:
        named = {} if "resourceArn" in parameters else {"logGroupName": group.name}
        record = {
            "eventVersion": "1.11",
            "eventSource": "logs.amazonaws.com",
            "eventName": event,
            "awsRegion": group.region,
            "recipientAccountId": group.account,
            "requestParameters": named | parameters,
        }
        for _ in range(self._dice.choice([1, 1, 1, 2, 3])):
            self.post(record, self._dice.choice([2.0, 2.0, 3.0, 20.0, 100.0]))

    def post(self, record: Document, latest_s: float) -> None:
        """Bring a record to the source topic, not before DescribeLogGroups shows what it tells of."""
        self.events += 1
        delay_s = self._dice.choice([LAG_S + 0.5, 2.0, latest_s])  # not any time: some are to arrive together
        asyncio.get_running_loop().call_later(delay_s, self._arrive, json.dumps(record).encode())

    def _arrive(self, value: bytes) -> None:
        self.events -= 1
        record = json.loads(value)
        if record.get("eventName") == "CreateLogGroup" and not says_ignore(record["requestParameters"]["tags"]):
            name = record["requestParameters"]["logGroupName"]
            self._believe_not_ignored(LogGroup(record["recipientAccountId"], record["awsRegion"], name), BELIEVED_S)
        self._broker.append(OutgoingRecord(SOURCE, None, value))

    # what Logwarden asks

    async def ready(self, lane: Lane) -> None:
        await asyncio.sleep(self._dice.choice([0.0, 0.0, 0.5]))

    async def with_tag(self, lane: Lane, tag: str, token: str | None) -> tuple[Collection[str], str | None]:
        """One name a page."""
        await self._answer()
        tagged = {group for group, it in self.groups.items() if group.lane == lane and tag in it.tags}
        for name in NAMES:
            if (group := LogGroup(lane.account, lane.region, name)) not in tagged:
                self._believe_not_ignored(group, FRESH_S)
        left = sorted(group.name for group in tagged if group.name > (token or ""))
        return left[:1], left[0] if len(left) > 1 else None

    def _believe_not_ignored(self, group: LogGroup, seconds: float) -> None:
        self._not_ignored_until[group] = max(self._not_ignored_until.get(group, 0.0), _now() + seconds)

    async def associate(self, log_group: LogGroup, key: KeyArn) -> None:
        self.calls += 1
        self._judge(log_group, key)
        if log_group in self._changing:
            self.wrongs.append(f"two calls at once for {log_group}")
        self._changing.add(log_group)
        try:
            await self._answer()
        except asyncio.CancelledError:
            if self._dice.random() < 0.5 and log_group in self.groups:
                self._associate(log_group, key)
            raise
        finally:
            self._changing.discard(log_group)
        if key in self.refused_keys:
            raise CallFailedError(FailureClass.KEY_NOT_USABLE, "as told")
        self._existing(log_group)
        self._associate(log_group, key)
        if self._dice.random() < self.failing / 3:
            raise CallFailedError(FailureClass.UNREACHABLE, "the answer was lost")

    def _associate(self, log_group: LogGroup, key: KeyArn) -> None:
        self._change(log_group, key)
        self._tell("AssociateKmsKey", log_group, {"kmsKeyId": key})

    def _judge(self, log_group: LogGroup, key: KeyArn) -> None:
        """Note what is wrong with a call as it is made: by the tenant file in force, and by tags that the group had just now."""
        recent = self._tags_within(log_group, TAGS_ARE_OLD_S)
        if self._registry.document["ignore_tag"] == "listed" and self._may_seem_not_ignored(log_group):
            recent = [{name: value for name, value in tags.items() if name != IGNORE_TAG} for tags in recent]
        allowed = [found for tags in recent if (found := right(self._registry.document, log_group, tags))]
        if tenant_of(key) not in {each.tenant for each in allowed}:
            self.wrongs.append(f"{log_group} under {key}, where it could be {allowed}")
        elif not [each for each in allowed if each.key == key and each.overwrite != "never"]:
            self.wrongs.append(f"{log_group} under {key}, where it should be {allowed}")
        group = self.groups.get(log_group)
        # Nobody can look and call at once: what is changed after the look may be overwritten.
        was_seen = group is not None and self._seen.get(log_group, float("-inf")) > group.changed_at + LAG_S
        is_another = group is not None and group.key not in {None, key}
        if was_seen and is_another and all(each.overwrite == "when-no-key" for each in allowed):
            self.wrongs.append(f"{log_group} is under {group and group.key}, which may not be overwritten")

    def _tags_within(self, log_group: LogGroup, seconds: float) -> list[Tags]:
        """All the tags that the group had in the last so many seconds."""
        changes = self._tags[log_group]
        ends = [*(at for at, _ in changes[1:]), float("inf")]
        return [tags for (_, tags), until in zip(changes, ends, strict=True) if until > _now() - seconds]

    def _may_seem_not_ignored(self, log_group: LogGroup) -> bool:
        """Whether what AWS said of the group, when we last had to ask, did not have it left alone for its tag."""
        was_not = not all(says_ignore(tags) for tags in self._tags_within(log_group, CALL_TAKES_S))
        return was_not or _now() < self._not_ignored_until.get(log_group, 0.0) + CALL_TAKES_S

    async def describe(self, lane: Lane, names: Collection[str]) -> Mapping[str, KeyArn | None]:
        await self._answer()
        groups = [LogGroup(lane.account, lane.region, name) for name in names]
        self._seen |= {group: _now() for group in groups}
        return {group.name: self._shown(self.groups[group]) for group in groups if group in self.groups}

    async def page(self, lane: Lane, token: str | None) -> LogGroupPage:
        await self._answer()
        groups = sorted(group.name for group in self.groups if group.lane == lane and group.name > (token or ""))
        page = {name: self._shown(self.groups[LogGroup(lane.account, lane.region, name)]) for name in groups[:3]}
        return LogGroupPage(page, groups[2] if len(groups) > 3 else None)

    async def tags_of(self, log_group: LogGroup) -> Tags:
        await self._answer()
        return self._existing(log_group).tags

    async def _answer(self) -> None:
        await asyncio.sleep(self._dice.uniform(0.01, 0.3))
        if self._dice.random() < self.failing:
            raise CallFailedError(self._dice.choice([*PASSING, FailureClass.UNREACHABLE]), "as told")

    def _existing(self, log_group: LogGroup) -> Group:
        if log_group not in self.groups:
            raise CallFailedError(FailureClass.LOG_GROUP_NOT_FOUND, "as told")
        return self.groups[log_group]

    def _shown(self, group: Group) -> KeyArn | None:
        is_shown = _now() >= group.changed_at + LAG_S * self._dice.random()
        return group.key if is_shown else group.key_before


def _now() -> float:
    return asyncio.get_running_loop().time()


# -- the play


class Play:
    """One organisation, from its first event until all is quiet."""

    def __init__(self, *, dice: Random, acts: int) -> None:
        self._dice = dice
        self._acts = acts
        self._clock = VirtualClock()
        self._broker = MemoryBroker(clock=self._clock, dice=dice)
        self.registry = Registry()
        self.aws = Aws(registry=self.registry, broker=self._broker, dice=dice)
        topics = (SOURCE, WORK, *(f"retry.{step}" for step in range(1, len(DELAYS_S) + 1)))
        self._consumers = {topic: MemoryConsumer(self._broker, topic, dice=dice) for topic in topics}
        self._generation = 0
        self._started: list[asyncio.Task[None]] = []
        self._replica = self._new_replica()
        lanes = dice.sample(LANES, dice.choice([1, 1, 2]))  # few lanes and groups, so that much happens to each
        self.groups = [LogGroup(lane.account, lane.region, name) for lane, name in product(lanes, NAMES)]
        dice.shuffle(self.groups)
        del self.groups[dice.randint(1, 10) :]

    def _new_replica(self) -> Replica:
        return Replica(
            directory=self.registry,
            log_groups=self.aws,
            keys=FakeKeys(takes_any=True),
            publisher=self._broker,
            clock=self._clock,
            retry_delays_s=DELAYS_S,
        )

    async def run(self) -> None:
        dice = self._dice
        while not self.registry.load(document(dice)):
            pass
        final = self.registry.document
        is_late = dice.random() < 0.2 and self.registry.load(final | {"tenants": final["tenants"][1:]})
        self._start()
        self.aws.failing = dice.choice([0.0, 0.1, 0.3])
        acts = [*(self._stranger for _ in range(self._acts)), *(self._trouble for _ in range(self._acts // 4))]
        dice.shuffle(acts)
        ends_at = _now() + CHAOS_S
        for act in acts:
            await asyncio.sleep(dice.choice([0.0, 2 * dice.expovariate(len(acts) / CHAOS_S)]))  # some at once
            await act()
        await asyncio.sleep(max(0.0, ends_at - _now()))
        self.registry.is_away, self.aws.failing = False, 0.0
        self.aws.refused_keys.clear()
        assert self.registry.load(rotated(final, self._generation))
        await asyncio.sleep(2 * LAG_S)
        if self._generation or is_late:  # what was sealed before is not looked at again by itself
            self._sweep()
        await self._quiet()
        await self._stop(deadline_s=20.0, is_kill=False)

    async def _stranger(self) -> None:
        dice, group = self._dice, self._dice.choice(self.groups)
        tags = dice.choice(
            [
                {},
                *({"tenant": each} for each in (*TENANTS, "both")),
                {IGNORE_TAG: "yes", "tenant": "a"},
                {IGNORE_TAG: "yes"},
                {IGNORE_TAG: "false"},
            ]
        )
        tenant = dice.choice([*TENANTS, "stranger"])
        key = dice.choice([None, key_of(tenant, group.region, self._generation), key_of(tenant, group.region, 0)])
        match dice.randrange(8):
            case 0 | 1 | 2:
                self.aws.create(group, tags, dice.choice([None, None, key]))
            case 3:
                self.aws.set_key(group, key)
            case 4:
                self.aws.set_key(group, None)
            case 5:
                self.aws.delete(group)
            case 6:
                self.aws.set_tags(group, tags)
            case _:
                self._send(group, dice.choice([Trigger.REQUEST, Trigger.DELETED, Trigger.CREATED]))
        records = self._broker.topics[SOURCE]
        if records and dice.random() < 0.3:  # a replay
            self.aws.post(json.loads(dice.choice(records).value or b"{}"), 60.0)
        if dice.random() < 0.2:  # whoever writes our own events may say what they like
            lie = {
                "type": "log-group-created",
                "account": group.account,
                "region": group.region,
                "log_group": group.name,
            }
            tagless: list[Document] = [{}, {"tags": {}}]
            key = key_of(dice.choice(TENANTS), group.region, 0)
            self.aws.post(lie | {"kms_key_id": key} | dice.choice(tagless), 60.0)

    def _send(self, group: LogGroup, trigger: Trigger) -> None:
        command = EnsureCommand(log_group=group, trigger=trigger, accepted_at_ms=self._clock.epoch_ms())
        self._broker.append(OutgoingRecord(WORK, command.partition_key, command.to_bytes()))

    def _sweep(self) -> None:
        for lane in LANES:
            at_ms = self._clock.epoch_ms()
            command = SweepCommand(lane=lane, sweep_id=new_sweep_id(at_ms, self._dice.randbytes(10)), asked_at_ms=at_ms)
            self._broker.append(OutgoingRecord(WORK, str(lane).encode(), command.to_bytes()))

    async def _trouble(self) -> None:
        dice = self._dice
        match dice.randrange(11):
            case 9 | 10:
                self._replica.pause(dice.choice([1.0, 20.0, 100.0]))
            case 0 | 1:
                await self._stop(deadline_s=dice.choice([20.0, 0.1]), is_kill=False)
                if dice.random() < 0.5:
                    self._replica = self._new_replica()
                self._start()
            case 2:
                await self._stop(deadline_s=0, is_kill=True)
                self._replica = self._new_replica()
                self._start()
            case 3 | 4:
                self._generation += 1
                self.registry.load(rotated(self.registry.document, self._generation))
            case 5:
                self._sweep()
            case 6:
                self.registry.is_away = not self.registry.is_away
            case 7:
                before, wrong = self.registry.document, document(dice)
                wrong["tenants"].append(wrong["tenants"][0])
                assert not self.registry.load(wrong)
                assert self.registry.document is before
            case _:
                tenants = self.registry.document["tenants"]
                self.aws.refused_keys = set(dice.choice(tenants)["keys"].values()) if dice.random() < 0.7 else set()

    def _start(self) -> None:
        replica = self._replica
        replica.restart()
        loops = [self._consumers[topic].read(handler) for topic, handler in replica.handlers.items()]
        self._started = [asyncio.ensure_future(each) for each in (replica.run(), *loops)]

    async def _stop(self, *, deadline_s: float, is_kill: bool) -> None:
        running, *reading = self._started
        for task in reading:
            task.cancel()
        if is_kill:
            self._commit(is_late=True)
        await self._replica.drain(deadline_s)
        if not is_kill:
            self._commit(is_late=False)
        assert not running.done(), running.exception()  # a bug
        running.cancel()
        for task in self._started:
            with suppress(asyncio.CancelledError):
                await task

    def _commit(self, *, is_late: bool) -> None:
        for consumer in self._consumers.values():
            consumer.commit(is_late=is_late)

    async def _quiet(self) -> None:
        """Let everything come to rest: second looks take up to 10 s, and what they find is worked again."""
        calm_s = 0.0
        async with asyncio.timeout(4 * 3600):
            while calm_s < 60:
                await asyncio.sleep(15)
                is_calm = not self.aws.events and all(consumer.is_done for consumer in self._consumers.values())
                calm_s = calm_s + 15 if is_calm else 0.0

    @property
    def not_right(self) -> dict[LogGroup, tuple[KeyArn | None, Right]]:
        """The groups that are not as the tenant file and the tenant's policy want them."""
        found = {}
        for name, group in self.aws.groups.items():
            wanted = right(self.registry.document, name, group.tags)
            if wanted is None or wanted.overwrite == "never" or group.key == wanted.key:
                continue
            if wanted.overwrite == "always" or group.key is None:
                found[name] = group.key, wanted
        return found

    @property
    def dead_letters(self) -> list[str]:
        return [str(record.headers) for record in self._broker.topics[DEAD_LETTERS]]


@given(seed=st.integers(0, 2**64), acts=st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_no_group_is_put_under_another_tenants_key_and_at_rest_each_has_its_own(seed: int, acts: int) -> None:
    async def play() -> Play:
        playing = Play(dice=Random(seed), acts=acts)
        await playing.run()
        return playing

    played = run_in_virtual_time(play())
    assert played.aws.wrongs == []
    assert played.not_right == {}
