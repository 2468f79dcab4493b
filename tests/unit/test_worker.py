import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from service.core.dead_letters import DeadLetters
from service.core.ensure import Ensure, Policy
from service.core.turn import Held, Turn
from service.core.worker import DUE_HEADER, Topics, Worker
from service.domain.command import MAX_REQUEST_IDS, EnsureCommand, Origin, Trigger
from service.domain.dead_letter import DeadLetterLimit
from service.domain.log_group import KeyAlias, KeyArn, TenantId
from service.domain.outcome import CallFailedError, FailureClass, Outcome, Recourse, State
from service.domain.pacing import Quota
from service.domain.request import RequestOutcome, new_request_id, record_from_bytes
from service.domain.tenancy import Decision, Excluded, Overwrite, Owned, Undecided
from service.ports import GivenUpError, OutgoingRecord
from service.sandbox.aws.policy import logs_key_policy
from tests.support.fakes import (
    LANE,
    TENANT,
    FakeDirectory,
    RecordingObserver,
    TimedLogGroups,
    ensure,
    group,
    key_of,
)
from tests.support.keys import FakeKeys
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import EPOCH_MS, START_S, VirtualClock, virtual_time

DELAYS_S = (30.0, 120.0, 600.0)
ATTEMPTS, MAX_WAIT_S, OBSERVE_AFTER_S = 6, 5.0, 60.0
NOW_MS = EPOCH_MS + int(START_S * 1000)
OUTCOMES, REQUESTS, DEAD_LETTERS = "outcomes", "requests", "dead-letters"
RETRIES = ("retry.1", "retry.2", "retry.3")
FRESH: Any = {"at_ms": NOW_MS, "shown_key": ""}  # a CreateLogGroup of this moment: it needs no look
FAILURES = [failure for failure in FailureClass if failure is not FailureClass.CONTESTED]  # which no answer leads to
REQUEST_IDS = tuple(new_request_id(NOW_MS, bytes([n] * 10)) for n in range(2))


_T = TypeVar("_T")


class RecordingTurn(Turn):
    """A turn whose token is there as soon as the pause before the call is over."""

    __slots__ = ("calls", "gives_up", "meanwhile", "probing", "recording", "retried", "throttles", "waits")

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.calls: Counter[Quota] = Counter()
        self.throttles = 0
        self.retried: list[FailureClass] = []
        self.gives_up = False
        self.recording = 0
        self.probing = False
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def is_probing(self) -> bool:
        return self.probing

    @asynccontextmanager
    async def call(self, quota: Quota) -> AsyncIterator[None]:
        if self.waits and self.gives_up:
            raise GivenUpError
        if self.waits:
            await asyncio.sleep(self.waits[-1])
        self.meanwhile()
        self.calls[quota] += 1
        try:
            yield
        except CallFailedError as e:
            self.throttles += e.failure is FailureClass.THROTTLED
            raise

    def retries(self, error: CallFailedError) -> None:
        self.retried.append(error.failure)

    async def pause(self, delay_s: float) -> None:
        self.waits.append(delay_s)

    async def record(self, written: Awaitable[_T]) -> _T:
        self.recording += 1
        return await written

    async def session(self, ready: Awaitable[None]) -> None:
        await ready

    async def prepare(self, needed: Awaitable[_T]) -> _T:
        return await needed


class Bench:
    def __init__(
        self,
        *,
        is_dry_run: bool = False,
        delays_s: Sequence[float] = DELAYS_S,
        attempts: int = ATTEMPTS,
        max_dead_letters: int = 10_000,
    ) -> None:
        self.directory = FakeDirectory()
        self.log_groups = TimedLogGroups(latency_s=0.25)
        self.keys = FakeKeys(takes_any=True)
        self.publisher = FakePublisher()
        self.observer = RecordingObserver()
        self.turn = RecordingTurn()
        self.told: list[Outcome] = []
        self.worker = Worker(
            ensure=Ensure(
                directory=self.directory,
                log_groups=self.log_groups,
                keys=self.keys,
                clock=VirtualClock(),
                policy=Policy(
                    attempts=attempts, max_wait_s=MAX_WAIT_S, observe_after_s=OBSERVE_AFTER_S, is_dry_run=is_dry_run
                ),
            ),
            publisher=self.publisher,
            dead_letters=DeadLetters(
                publisher=self.publisher,
                observer=self.observer,
                limit=DeadLetterLimit(max_consecutive=max_dead_letters, max_share=1, window=10_000),
                topic=DEAD_LETTERS,
                work_topic="work",
            ),
            clock=VirtualClock(),
            observer=self.observer,
            topics=Topics(outcomes=OUTCOMES, requests=REQUESTS, retries=RETRIES[: len(delays_s)]),
            retry_delays_s=delays_s,
            on_outcome=self.told.append,
        )

    async def work(self, command: EnsureCommand) -> Held | None:
        return await self.worker.work(command, self.turn)

    @property
    def topics(self) -> dict[str, int]:
        """How many records went where."""
        return dict(Counter(record.topic for record in self.publisher.records))

    @property
    def outcome(self) -> dict[str, Any]:
        (value,) = self.publisher.values(OUTCOMES)
        outcome: dict[str, Any] = json.loads(value)
        return outcome

    def only(self, topic: str) -> OutgoingRecord:
        (record,) = [record for record in self.publisher.records if record.topic == topic]
        return record


# -- its place in the lane


@pytest.mark.parametrize("failure", [None, FailureClass.KEY_NOT_USABLE, FailureClass.LOG_GROUP_NOT_FOUND])
@virtual_time
async def test_a_command_leaves_its_place_while_what_follows_from_it_is_written(failure: FailureClass | None):
    bench = Bench()
    if failure is not None:
        bench.log_groups.failures[group()].append(failure)
    bench.publisher.stall()
    work = asyncio.create_task(bench.work(ensure(at_ms=NOW_MS - 1500, shown_key="")))
    await asyncio.sleep(60)
    assert (bench.publisher.waiting, bench.turn.recording) == (1, 1)
    bench.publisher.resume()
    assert await work is None
    assert bench.outcome.get("failure", {}).get("class") == (failure and failure.label)


# -- what is decided


@virtual_time
async def test_a_group_goes_under_the_key_of_its_tenant():
    bench = Bench()
    command = ensure(at_ms=NOW_MS - 1500, shown_key="")
    assert await bench.work(command) is None
    (call,) = bench.log_groups.calls
    assert (call.log_group, call.key) == (group(), key_of())
    assert bench.topics == {OUTCOMES: 1}
    assert bench.only(OUTCOMES).key == b"111122223333:eu-west-1:g"
    assert bench.outcome == {
        "account": "111122223333",
        "region": "eu-west-1",
        "log_group": "g",
        "state": "sealed",
        "tenant": TENANT,
        "key": key_of(),
        "attempts": 1,
        "trigger": "created",
        "accepted_at_ms": NOW_MS - 1500,
        "at_ms": NOW_MS + 250,
        "deferrals": 0,
        "origin": None,
        "requests": [],
        "is_dry_run": False,
    }
    ((done, outcome, seconds),) = bench.observer.outcomes
    assert (done, outcome.state, seconds) == (command, State.SEALED, 1.75)


@virtual_time
async def test_an_excluded_group_is_left_alone():
    bench = Bench()
    bench.directory.decisions[group()] = Excluded("excluded by name: /scratch/*")
    assert await bench.work(ensure(**FRESH)) is None
    assert bench.log_groups.calls == []
    assert bench.topics == {OUTCOMES: 1}
    assert (bench.outcome["state"], bench.outcome["detail"]) == ("excluded", "excluded by name: /scratch/*")
    assert not bench.turn.calls


@virtual_time
async def test_a_group_that_shows_the_right_key_needs_no_call():
    bench = Bench()
    assert await bench.work(ensure(trigger=Trigger.KEY_ASSOCIATED, at_ms=NOW_MS, shown_key=key_of())) is None
    assert bench.log_groups.calls == []
    assert bench.topics == {OUTCOMES: 1}
    assert (bench.outcome["state"], bench.outcome["key"]) == ("already-sealed", key_of())
    assert not bench.turn.calls


@pytest.mark.parametrize("shown_key", [None, "", f"{key_of()}-of-somebody-else"])
@virtual_time
async def test_a_group_that_shows_no_key_another_or_nothing_is_sealed(shown_key: str | None):
    bench = Bench()
    assert await bench.work(ensure(shown_key=shown_key)) is None
    assert len(bench.log_groups.calls) == 1
    assert bench.outcome["state"] == "sealed"


@pytest.mark.parametrize(
    "decision",
    [
        Excluded("x"),
        Undecided(FailureClass.AMBIGUOUS_TENANT, "two"),
        Undecided(FailureClass.NO_KEY_IN_REGION, "none", TENANT),
    ],
)
@pytest.mark.parametrize("shown_key", [None, "", key_of()])
@virtual_time
async def test_no_key_is_used_on_a_group_that_is_nobodys(decision: Decision, shown_key: str | None):
    bench = Bench()
    bench.directory.decisions[group()] = decision
    await bench.work(ensure(shown_key=shown_key))
    assert bench.log_groups.calls == []
    assert bench.outcome["state"] != "already-sealed"


@virtual_time
async def test_the_tenant_is_decided_with_the_tags_of_the_trigger_each_time_anew():
    bench = Bench()
    tenants = [Owned(TenantId(name), KeyArn(f"{key_of()}-{name}"), "rule") for name in "ab"]
    for decision in tenants:
        bench.directory.decisions[group()] = decision
        bench.turn = RecordingTurn()
        await bench.work(ensure(tags={"team": "a"}))
    assert bench.directory.asked == [(group(), {"team": "a"})] * 4, "when it begins, and again with the token in hand"
    assert [call.key for call in bench.log_groups.calls] == [decision.key for decision in tenants]


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (Owned(TENANT, key_of(), "rule"), "sealed"),
        (Owned(TenantId("tenant-b"), key_of(), "rule"), "excluded"),
        (Undecided(FailureClass.NO_KEY_IN_REGION, "no key", TENANT), "deferred"),
        (Undecided(FailureClass.UNKNOWN_TENANT, "no rule"), "excluded"),
    ],
)
@virtual_time
async def test_a_command_for_the_groups_of_one_tenant_leaves_all_others_alone(decision: Decision, state: str):
    bench = Bench()
    bench.directory.decisions[group()] = decision
    await bench.work(replace(ensure(trigger=Trigger.SWEEP, at_ms=NOW_MS), only_tenant=TENANT))
    assert bench.outcome["state"] == state
    assert len(bench.log_groups.calls) == (state == "sealed")
    assert DEAD_LETTERS not in bench.topics


@pytest.mark.parametrize("shown", [None, {}, {"team": "whatever a sender claims"}])
@virtual_time
async def test_where_tags_matter_they_are_looked_up_whatever_the_trigger_shows(shown: dict[str, str] | None):
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tags[group()] = {"team": "b"}
    await bench.work(ensure(tags=shown))
    assert bench.directory.asked == [(group(), {"team": "b"})] * 2
    assert bench.outcome["attempts"] == 1
    assert bench.turn.calls[Quota.TAGS] == bench.turn.calls[Quota.ASSOCIATE] == 1


@pytest.mark.parametrize("shown", [None, {}, {"team": "a"}])
@virtual_time
async def test_where_they_do_not_matter_they_are_not(shown: dict[str, str] | None):
    bench = Bench()
    await bench.work(ensure(tags=shown))
    assert bench.log_groups.lookups == []
    assert bench.directory.asked == [(group(), shown)] * 2


@virtual_time
async def test_a_look_up_that_fails_for_a_moment_is_tried_again():
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tag_failures.extend([FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE])
    await bench.work(ensure(**FRESH))
    assert len(bench.log_groups.lookups) == 3
    assert (bench.outcome["state"], bench.outcome["attempts"]) == ("sealed", 1)


@pytest.mark.parametrize("deferrals", [0, 1, 3])
@pytest.mark.parametrize("failure", FAILURES)
@virtual_time
async def test_every_failure_of_a_look_up_leads_where_the_table_says_and_no_key_is_used(
    failure: FailureClass, deferrals: int
):
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tag_failures.extend([failure] * ATTEMPTS)
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals, strikes=deferrals, at_ms=NOW_MS, shown_key="")
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert bench.log_groups.calls == []
    assert len(bench.log_groups.lookups) == (ATTEMPTS if failure.is_retried_in_place else 1)


@virtual_time
async def test_a_key_that_is_not_to_be_overwritten_is_looked_for_again_before_a_call_is_repeated():
    bench = Bench()
    bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", Overwrite.WHEN_NO_KEY)
    bench.log_groups.keys[group()] = None
    bench.log_groups.failures[group()].extend([FailureClass.THROTTLED, FailureClass.OPERATION_ABORTED])
    theirs = KeyArn(f"{key_of()}-of-somebody-else")

    def put_theirs_on() -> None:
        if bench.turn.calls[Quota.ASSOCIATE]:
            bench.log_groups.keys[group()] = theirs

    bench.turn.meanwhile = put_theirs_on
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS))
    assert (bench.outcome["state"], bench.outcome["old_key"]) == ("kept", theirs)
    assert bench.outcome["attempts"] == len(bench.log_groups.calls) < 3


# -- what is looked at before it is associated


OTHER_KEY = KeyArn(f"{key_of()}-of-somebody-else")


@pytest.mark.parametrize(
    "command",
    [
        ensure(at_ms=NOW_MS - 60_000, shown_key=""),  # a backlog, or a replay
        ensure(at_ms=NOW_MS - 60_000, shown_key=key_of()),
        ensure(at_ms=NOW_MS),  # it says nothing of a key
        ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS),
        ensure(trigger=Trigger.SWEEP, at_ms=NOW_MS),
        ensure(trigger=Trigger.VERIFY, at_ms=NOW_MS),
        ensure(trigger=Trigger.TAGGED, at_ms=NOW_MS),
        ensure(trigger=Trigger.KEY_DISASSOCIATED, at_ms=NOW_MS, shown_key=""),  # every event may come twice
        ensure(trigger=Trigger.KEY_ASSOCIATED, at_ms=NOW_MS, shown_key=OTHER_KEY),
        ensure(at_ms=NOW_MS, deferrals=1),
    ],
    ids=lambda command: f"{command.trigger}-{command.shown_key}",
)
@pytest.mark.parametrize("key", [None, OTHER_KEY, key_of()])
@virtual_time
async def test_what_may_be_out_of_date_is_looked_at_and_sealed_only_if_need_be(
    command: EnsureCommand, key: KeyArn | None
):
    bench = Bench()
    bench.log_groups.keys[group()] = key
    assert await bench.work(command) is None
    assert bench.log_groups.descriptions == [(LANE, frozenset("g"))]
    assert bench.turn.calls[Quota.DESCRIBE] == 1
    assert len(bench.log_groups.calls) == (key != key_of())
    assert bench.outcome["state"] == ("already-sealed" if key == key_of() else "sealed")


@pytest.mark.parametrize("shown_key", ["", OTHER_KEY])
@virtual_time
async def test_a_group_made_this_minute_needs_no_look(shown_key: str):
    bench = Bench()
    await bench.work(ensure(at_ms=NOW_MS - 59_000, shown_key=shown_key))
    assert bench.log_groups.descriptions == []
    assert len(bench.log_groups.calls) == 1


@virtual_time
async def test_an_event_that_is_told_twice_makes_one_call():
    bench = Bench()
    for _ in range(3):
        await bench.work(ensure(**FRESH))
        bench.log_groups.keys[group()] = key_of()
    assert len(bench.log_groups.calls) == 1
    assert len(bench.log_groups.descriptions) == 2


@pytest.mark.parametrize("trigger", Trigger)
@virtual_time
async def test_a_command_that_waited_for_a_deleted_group_looks_and_vanishes(trigger: Trigger):
    back_from_a_retry_topic = ensure(trigger=trigger, at_ms=NOW_MS, shown_key="").deferred(is_strike=True)
    told_while_it_waited = ensure(at_ms=NOW_MS, shown_key="", deferrals=1).merged(ensure(trigger=Trigger.DELETED))
    for command in (back_from_a_retry_topic, told_while_it_waited):
        bench = Bench()
        bench.log_groups.absent.add(group())
        assert await bench.work(command) is None
        assert bench.log_groups.calls == []
        assert bench.turn.calls[Quota.DESCRIBE] == 1
        assert bench.outcome["state"] == "vanished"


@virtual_time
async def test_a_group_that_is_made_again_after_its_deletion_is_sealed_by_whoever_waits():
    bench = Bench()
    assert await bench.work(ensure(at_ms=NOW_MS, shown_key="").merged(ensure(trigger=Trigger.DELETED))) is None
    assert bench.turn.calls[Quota.DESCRIBE] == 1
    assert bench.outcome["state"] == "sealed"


@virtual_time
async def test_a_group_that_aws_does_not_show_is_not_associated():
    bench = Bench()
    bench.log_groups.absent.add(group())
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS))
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS, deferrals=1))
    assert bench.log_groups.calls == []
    assert [json.loads(value)["state"] for value in bench.publisher.values(OUTCOMES)] == ["deferred", "vanished"]


@pytest.mark.parametrize("failure", [f for f in FAILURES if f is not FailureClass.NOT_AUTHORIZED])
@virtual_time
async def test_every_failure_of_a_look_leads_where_the_table_says(failure: FailureClass):
    bench = Bench()
    bench.log_groups.describe_failures.extend([failure] * ATTEMPTS)
    command = ensure(requests=REQUEST_IDS, at_ms=NOW_MS)
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert bench.log_groups.calls == []
    assert len(bench.log_groups.descriptions) == (ATTEMPTS if failure.is_retried_in_place else 1)


@virtual_time
async def test_a_key_that_changes_while_the_command_waits_for_its_token_is_the_one_that_is_used():
    bench = Bench()
    new_key = KeyArn(f"{key_of()}-new")

    def rotate() -> None:
        bench.directory.decisions[group()] = Owned(TENANT, new_key, "the key was rotated")

    bench.turn.meanwhile = rotate
    await bench.work(ensure(**FRESH))
    assert [call.key for call in bench.log_groups.calls] == [new_key]
    assert (bench.outcome["key"], bench.outcome["attempts"]) == (new_key, 1)


@virtual_time
async def test_tags_that_begin_to_matter_while_the_command_waits_are_looked_up():
    bench = Bench()
    bench.log_groups.tags[group()] = {"team": "b"}
    bench.turn.meanwhile = lambda: setattr(bench.directory, "by_tags", True)
    await bench.work(ensure(tags={"team": "whatever a sender claims"}, **FRESH))
    assert bench.log_groups.lookups == [group()]
    assert bench.directory.asked[-1] == (group(), {"team": "b"})
    assert len(bench.log_groups.calls) == 1


@virtual_time
async def test_an_alias_that_is_given_another_key_meanwhile_is_told_by_the_key_that_is_used():
    bench = Bench()
    alias, new_key = KeyAlias("arn:aws:kms:eu-west-1:111122223333:alias/tenant-a"), KeyArn(f"{key_of()}-new")
    for key in (key_of(), new_key):
        bench.keys.add(key)
    bench.keys.aliases[alias] = key_of()
    bench.directory.decisions[group()] = Owned(TENANT, alias, "by its alias")
    bench.turn.meanwhile = lambda: bench.keys.aliases.update({alias: new_key})
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS))
    assert bench.outcome["key"] == new_key
    assert [call.key for call in bench.log_groups.calls] == [new_key]


@virtual_time
async def test_who_may_not_look_at_groups_may_still_associate():
    bench = Bench()
    bench.log_groups.describe_failures.append(FailureClass.NOT_AUTHORIZED)
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS))
    assert bench.outcome["state"] == "sealed"


@virtual_time
async def test_an_event_from_the_future_proves_nothing():
    bench = Bench()
    bench.log_groups.keys[group()] = key_of()
    await bench.work(ensure(at_ms=NOW_MS + 60_000, shown_key=""))
    assert bench.outcome["state"] == "already-sealed"
    assert bench.log_groups.calls == []


@virtual_time
async def test_a_group_that_becomes_nobodys_while_the_command_waits_is_left_alone():
    bench = Bench()

    def exclude() -> None:
        bench.directory.decisions[group()] = Excluded("excluded since")

    bench.turn.meanwhile = exclude
    await bench.work(ensure(**FRESH))
    assert bench.log_groups.calls == []
    assert bench.outcome["state"] == "excluded"


# -- the key


@virtual_time
async def test_a_key_that_cannot_be_used_costs_no_call():
    bench = Bench()
    bench.keys.add(key_of(), state="Disabled")
    await bench.work(ensure(**FRESH))
    assert bench.log_groups.calls == []
    assert not bench.turn.calls
    assert (bench.outcome["state"], bench.outcome["attempts"]) == ("deferred", 0)
    assert bench.outcome["failure"]["class"] == "key-not-found"
    assert "enable it" in bench.outcome["detail"]


@virtual_time
async def test_a_key_is_not_looked_at_for_a_group_that_is_under_it():
    bench = Bench()
    bench.keys.add(key_of(), state="Disabled")
    bench.log_groups.keys[group()] = key_of()
    await bench.work(ensure(trigger=Trigger.SWEEP, at_ms=NOW_MS))
    assert bench.outcome["state"] == "already-sealed"
    assert bench.keys.inspected == []


@pytest.mark.parametrize("failure", [FailureClass.THROTTLED, FailureClass.UNREACHABLE, FailureClass.NOT_AUTHORIZED])
@virtual_time
async def test_a_key_that_cannot_be_looked_at_is_used_all_the_same(failure: FailureClass):
    bench = Bench()
    bench.keys.failure = failure
    await bench.work(ensure(**FRESH))
    assert bench.outcome["state"] == "sealed"


@pytest.mark.parametrize("failure", [FailureClass.KEY_NOT_USABLE, FailureClass.KEY_NOT_FOUND])
@virtual_time
async def test_a_refusal_is_explained_by_a_new_look_at_the_key(failure: FailureClass):
    bench = Bench()
    bench.keys.add(key_of(), policy='{"Statement": []}')
    bench.log_groups.failures[group()].append(failure)
    await bench.work(ensure(**FRESH))
    assert bench.keys.forgotten == [(key_of(), group())]
    assert bench.outcome["detail"].startswith("as told; ")
    assert "logs.eu-west-1.amazonaws.com" in bench.outcome["detail"], "the principal that the policy has to name"


@pytest.mark.parametrize("key", [None, OTHER_KEY, key_of()])
@virtual_time
async def test_an_alias_stands_for_its_key(key: KeyArn | None):
    bench = Bench()
    alias = KeyAlias("arn:aws:kms:eu-west-1:111122223333:alias/tenant-a")
    bench.keys.add(key_of())
    bench.keys.aliases[alias] = key_of()
    bench.directory.decisions[group()] = Owned(TENANT, alias, "by its alias")
    bench.log_groups.keys[group()] = key
    await bench.work(ensure(trigger=Trigger.REQUEST, at_ms=NOW_MS))
    assert bench.outcome["state"] == ("already-sealed" if key == key_of() else "sealed")
    assert bench.outcome["key"] == key_of()
    assert [call.key for call in bench.log_groups.calls] == ([] if key == key_of() else [key_of()])


@virtual_time
async def test_an_alias_that_stands_for_nothing_is_the_tenants_to_mend():
    bench = Bench()
    alias = KeyAlias("arn:aws:kms:eu-west-1:111122223333:alias/gone")
    bench.directory.decisions[group()] = Owned(TENANT, alias, "by its alias")
    await bench.work(ensure(**FRESH))
    assert bench.log_groups.calls == []
    assert bench.outcome["failure"]["class"] == "key-not-found"


# -- who is told


@virtual_time
async def test_an_outcome_is_passed_on_once_it_is_durable():
    bench = Bench()
    bench.publisher.stall(OUTCOMES)
    work = asyncio.create_task(bench.work(ensure(**FRESH)))
    await asyncio.sleep(60)
    assert bench.told == []
    bench.publisher.resume()
    await work
    assert [(outcome.log_group, outcome.state) for outcome in bench.told] == [(group(), State.SEALED)]


# -- who else changes it


@pytest.mark.parametrize("trigger", [Trigger.KEY_DISASSOCIATED, Trigger.KEY_ASSOCIATED, Trigger.VERIFY])
@virtual_time
async def test_a_contested_group_is_brought_back_at_once_three_times_and_then_later_and_later(trigger: Trigger):
    bench = Bench()
    change = ensure(trigger=trigger, at_ms=NOW_MS, caller="arn:aws:sts::111122223333:assumed-role/terraform/ci")
    for number in range(3):
        await bench.work(change)
        assert len(bench.log_groups.calls) == number + 1
    for number in range(5):
        bench.publisher.records.clear()
        assert await bench.work(change) is None
        assert len(bench.log_groups.calls) == 3 + number
        assert (bench.outcome["state"], bench.outcome["failure"]["class"]) == ("deferred", "contested")
        assert bench.outcome["flips"] == 3 + number
        assert "assumed-role/terraform/ci" in bench.outcome["detail"]
        delay_s = DELAYS_S[min(number, len(DELAYS_S) - 1)]
        assert bench.outcome["retry_in_s"] == delay_s
        (record,) = [record for record in bench.publisher.records if record.topic in RETRIES]
        await bench.work(EnsureCommand.from_bytes(record.value))  # when its time has come
        assert len(bench.log_groups.calls) == 4 + number


@pytest.mark.parametrize("trigger", [Trigger.CREATED, Trigger.REQUEST, Trigger.SWEEP, Trigger.TAGGED])
@virtual_time
async def test_whoever_else_asks_does_not_wait_for_a_contest(trigger: Trigger):
    bench = Bench()
    for _ in range(5):
        await bench.work(ensure(trigger=trigger, at_ms=NOW_MS))
    assert len(bench.log_groups.calls) == 5


@virtual_time
async def test_a_contest_is_forgotten_after_an_hour_of_quiet():
    bench = Bench()
    change = ensure(trigger=Trigger.KEY_DISASSOCIATED, at_ms=NOW_MS)
    for _ in range(3):
        await bench.work(change)
    await asyncio.sleep(3600)
    bench.publisher.records.clear()
    await bench.work(change)
    assert bench.outcome["state"] == "sealed"


# -- what the tenant lets be overwritten

SOMEBODYS = KeyArn(f"{key_of()}-of-somebody-else")


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("shown_key", [None, "", SOMEBODYS])
@pytest.mark.parametrize("overwrite", [Overwrite.WHEN_NO_KEY, Overwrite.NEVER])
@virtual_time
async def test_a_group_under_another_key_is_kept_whatever_the_trigger_claims(overwrite, shown_key, trigger):
    bench = Bench()
    bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule 1 of tenant-a", overwrite)
    bench.log_groups.keys[group()] = SOMEBODYS
    assert await bench.work(ensure(trigger=trigger, at_ms=NOW_MS, shown_key=shown_key)) is None
    assert bench.log_groups.calls == []
    assert (bench.outcome["state"], bench.outcome["tenant"]) == ("kept", TENANT)
    assert (bench.outcome["key"], bench.outcome["old_key"]) == (key_of(), SOMEBODYS)
    assert bench.outcome["detail"] == (
        f"the tenant's overwrite policy is {overwrite}, and the group is under {SOMEBODYS}; rule 1 of tenant-a decides"
    )


@pytest.mark.parametrize("shown_key", [None, "", SOMEBODYS])
@virtual_time
async def test_a_group_without_a_key_is_kept_only_where_nothing_may_be_overwritten(shown_key):
    for overwrite, state in ((Overwrite.NEVER, "kept"), (Overwrite.WHEN_NO_KEY, "sealed")):
        bench = Bench()
        bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", overwrite)
        assert await bench.work(ensure(at_ms=NOW_MS, shown_key=shown_key)) is None
        assert bench.outcome["state"] == state
        assert bench.turn.calls[Quota.DESCRIBE] == 1  # also of a group that is said to be new
        assert bench.log_groups.calls == [] if state == "kept" else bench.log_groups.calls


@pytest.mark.parametrize("overwrite", Overwrite)
@virtual_time
async def test_a_group_under_the_right_key_is_right_whatever_may_be_overwritten(overwrite):
    bench = Bench()
    bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", overwrite)
    bench.log_groups.keys[group()] = key_of()
    assert await bench.work(ensure()) is None
    assert bench.outcome["state"] == "already-sealed"


@virtual_time
async def test_where_nobody_may_look_nothing_is_overwritten_that_may_not_be():
    bench = Bench()
    bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", Overwrite.WHEN_NO_KEY)
    bench.log_groups.describe_failures.append(FailureClass.NOT_AUTHORIZED)
    assert await bench.work(ensure(**FRESH)) is None
    assert bench.log_groups.calls == []
    assert (bench.outcome["state"], bench.outcome["failure"]["class"]) == ("deferred", "not-authorized")


@virtual_time
async def test_a_policy_that_changes_while_a_command_waits_is_the_one_that_counts():
    bench = Bench()
    bench.log_groups.keys[group()] = SOMEBODYS

    def forbid():
        bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", Overwrite.WHEN_NO_KEY)

    bench.turn.meanwhile = forbid
    assert await bench.work(ensure()) is None
    assert bench.log_groups.calls == []
    assert bench.outcome["state"] == "kept"


@virtual_time
async def test_a_dry_run_would_seal_only_what_may_be_overwritten():
    bench = Bench(is_dry_run=True)
    bench.directory.decisions[group()] = Owned(TENANT, key_of(), "rule", Overwrite.WHEN_NO_KEY)
    bench.log_groups.keys[group()] = SOMEBODYS
    assert await bench.work(ensure()) is None
    assert bench.outcome["state"] == "kept"


# -- dry runs


@virtual_time
async def test_a_dry_run_says_what_it_would_do_and_does_nothing():
    bench = Bench(is_dry_run=True)
    assert await bench.work(ensure(**FRESH)) is None
    assert bench.log_groups.calls == []
    assert (bench.outcome["state"], bench.outcome["is_dry_run"]) == ("would-seal", True)
    assert bench.outcome["detail"] == "everything is tenant-a's"
    assert not bench.turn.calls


@virtual_time
async def test_a_dry_run_says_of_a_key_that_its_policy_withholds_what_enforcing_does():
    told: list[dict[str, Any]] = []
    for is_dry_run in (True, False):
        bench = Bench(is_dry_run=is_dry_run)
        bench.keys.add(key_of(), policy='{"Statement": []}')
        bench.log_groups.failures[group()].append(FailureClass.KEY_NOT_USABLE)
        assert await bench.work(ensure(**FRESH)) is None
        told.append({name: bench.outcome.get(name) for name in ("state", "tenant", "key", "failure", "retry_in_s")})
        assert "does not allow kms:Encrypt" in bench.outcome["detail"]
        assert "logs.eu-west-1.amazonaws.com" in bench.outcome["detail"], "the principal that the policy has to name"
        assert bench.topics == {OUTCOMES: 1, RETRIES[0]: 1}
        assert len(bench.log_groups.calls) == (0 if is_dry_run else 1)
    assert told[0] == told[1]
    assert told[0]["failure"]["class"] == "key-not-usable"


@virtual_time
@pytest.mark.parametrize("policy", ["allows", "nobody can read", None], ids=str)
async def test_a_dry_run_would_seal_under_a_key_whose_policy_says_nothing_against_it(policy: str | None):
    bench = Bench(is_dry_run=True)
    if policy is not None:
        bench.keys.add(
            key_of(), policy=policy if policy != "allows" else json.dumps(logs_key_policy(LANE.account, LANE.region))
        )
    assert await bench.work(ensure(**FRESH)) is None
    assert bench.outcome["state"] == "would-seal"


@virtual_time
async def test_enforcing_asks_aws_whatever_the_policy_seems_to_say():
    bench = Bench()
    bench.keys.add(key_of(), policy='{"Statement": []}')
    assert await bench.work(ensure(**FRESH)) is None
    assert bench.outcome["state"] == "sealed"


@pytest.mark.parametrize("is_dry_run", [False, True])
@virtual_time
async def test_a_registry_that_is_away_holds_the_command_and_writes_nothing(is_dry_run: bool):
    bench = Bench(is_dry_run=is_dry_run)
    bench.directory.failure = FailureClass.REGISTRY_UNAVAILABLE
    held = await bench.work(ensure(requests=REQUEST_IDS, **FRESH))
    assert held == Held(FailureClass.REGISTRY_UNAVAILABLE, "the registry is away")
    assert bench.topics == {}
    assert bench.observer.outcomes == []
    assert not bench.turn.calls


# -- what becomes of each failure, however often the command has been deferred


def expected_end(failure: FailureClass, deferrals: int) -> tuple[str | None, State | None]:
    """The topic that the command goes to, besides the outcome, and the state of the outcome; None for none."""
    first = min(2, sum(delay_s < failure.shortest_delay_s for delay_s in DELAYS_S))
    match failure.recourse:
        case Recourse.HOLD:
            return None, None
        case Recourse.EXCLUDE:
            return None, State.EXCLUDED
        case Recourse.DEAD_LETTER:
            return DEAD_LETTERS, State.FAILED
        case Recourse.DEFER_ALWAYS:
            return RETRIES[max(first, min(deferrals, 2))], State.DEFERRED
        case Recourse.DEFER_ONCE_THEN_VANISHED:
            return (None, State.VANISHED) if deferrals else (RETRIES[0], State.DEFERRED)
        case Recourse.DEFER:
            return (DEAD_LETTERS, State.FAILED) if deferrals >= 3 else (RETRIES[max(first, deferrals)], State.DEFERRED)


def check_end(bench: Bench, command: EnsureCommand, failure: FailureClass, held: Held | None) -> None:
    topic, state = expected_end(failure, command.deferrals)
    if state is None:
        assert held is not None
        assert held.failure is failure
        assert bench.topics == {}
        assert bench.observer.outcomes == []
        return
    assert held is None
    assert bench.topics == {OUTCOMES: 1, REQUESTS: 2} | ({topic: 1} if topic else {})
    assert bench.outcome["state"] == state
    assert bench.outcome["failure"]["class"] == failure.label
    assert bench.outcome["requests"] == list(REQUEST_IDS)
    assert [outcome.state for _, outcome, _ in bench.observer.outcomes] == [state]
    assert bench.observer.dead_letters == ([(failure, "work")] if topic == DEAD_LETTERS else [])
    if topic is None:
        return
    record = bench.only(topic)
    headers = dict(record.headers)
    assert record.key == command.partition_key
    if state is State.DEFERRED:
        delay_s = DELAYS_S[RETRIES.index(topic)]
        assert record.value == command.deferred(is_strike=failure.recourse is Recourse.DEFER).to_bytes()
        assert bench.outcome["retry_in_s"] == delay_s
        due_in_ms = int(headers[DUE_HEADER]) - bench.outcome["at_ms"]
        assert due_in_ms == pytest.approx(delay_s * 1000)
    else:
        assert record.value == replace(command, deferrals=0, strikes=0).to_bytes(), "sent back, it has all its tries"
        assert headers["logwarden-deferrals"] == str(command.deferrals).encode()
        assert headers["logwarden-class"] == failure.label.encode()


@pytest.mark.parametrize("deferrals", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("failure", FAILURES)
@virtual_time
async def test_every_failure_of_a_call_leads_where_the_table_says(failure: FailureClass, deferrals: int):
    bench = Bench()
    bench.log_groups.failure = failure
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals, strikes=deferrals, at_ms=NOW_MS, shown_key="")
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert len(bench.log_groups.calls) == (ATTEMPTS if failure.is_retried_in_place else 1)
    if bench.publisher.records:
        assert bench.outcome["attempts"] == len(bench.log_groups.calls)
        assert bench.outcome["key"] == key_of()


@pytest.mark.parametrize("deferrals", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("failure", FAILURES)
@virtual_time
async def test_every_reason_not_to_decide_leads_where_the_table_says(failure: FailureClass, deferrals: int):
    bench = Bench()
    bench.directory.decisions[group()] = Undecided(failure, "two rules match", TENANT)
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals, strikes=deferrals, at_ms=NOW_MS, shown_key="")
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert bench.log_groups.calls == []
    if bench.publisher.records:
        assert (bench.outcome["tenant"], bench.outcome["detail"], bench.outcome["attempts"]) == (
            TENANT,
            "two rules match",
            0,
        )


@pytest.mark.parametrize(("deferrals", "step"), [(0, 1), (2, 2), (50, 2)])  # no role is made within 30 s
@virtual_time
async def test_a_command_that_its_lane_cannot_keep_waits_on_a_retry_topic_and_no_strike_is_counted(
    deferrals: int, step: int
):
    bench = Bench()
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals, at_ms=NOW_MS, shown_key="")
    await bench.worker.postpone(command, Held(FailureClass.ROLE_NOT_ASSUMABLE, "no such role"))
    again = next(record for record in bench.publisher.records if record.topic == RETRIES[step])
    assert EnsureCommand.from_bytes(again.value) == replace(command, deferrals=deferrals + 1, shown_key=None)
    assert dict(again.headers)[DUE_HEADER] == str(NOW_MS + int(DELAYS_S[step] * 1000)).encode()
    assert bench.topics == {RETRIES[step]: 1, OUTCOMES: 1, REQUESTS: 2}
    assert bench.outcome["state"] == "deferred"
    assert bench.outcome["failure"]["class"] == "role-not-assumable"
    assert bench.outcome["retry_in_s"] == DELAYS_S[step]
    assert bench.log_groups.calls == []


@virtual_time
async def test_without_retry_topics_nothing_is_lost_either():
    for failure in FAILURES:
        bench = Bench(delays_s=())
        bench.log_groups.failure = failure
        held = await bench.work(ensure(**FRESH))
        assert (held is not None) == (failure.recourse in (Recourse.HOLD, Recourse.DEFER_ALWAYS))
        assert set(bench.topics) <= {OUTCOMES, DEAD_LETTERS}
        assert (DEAD_LETTERS in bench.topics) == (failure.recourse in (Recourse.DEFER, Recourse.DEAD_LETTER))


@virtual_time
async def test_past_the_limit_of_dead_letters_a_command_is_left_as_it_is():
    bench = Bench(max_dead_letters=0)
    bench.log_groups.failure = FailureClass.INVALID_REQUEST
    with pytest.raises(GivenUpError):
        await bench.work(ensure(requests=REQUEST_IDS, **FRESH))
    assert bench.topics == {}
    assert bench.observer.outcomes == []
    assert len(bench.observer.stops) == 1


# -- trying again in place


@virtual_time
async def test_a_command_that_finds_out_whether_a_fault_is_over_tries_once():
    bench = Bench()
    bench.turn.probing = True
    bench.log_groups.failure = FailureClass.UNREACHABLE
    held = await bench.work(ensure(**FRESH))
    assert held is not None
    assert len(bench.log_groups.calls) == 1


@virtual_time
async def test_a_fault_of_its_own_is_tried_again_even_then():
    bench = Bench()
    bench.turn.probing = True
    bench.log_groups.failures[group()].append(FailureClass.OPERATION_ABORTED)
    await bench.work(ensure(**FRESH))
    assert bench.outcome["state"] == "sealed"


@virtual_time
async def test_a_call_that_fails_for_a_moment_is_tried_again():
    bench = Bench()
    bench.log_groups.failures[group()].extend([FailureClass.OPERATION_ABORTED, FailureClass.SERVICE_UNAVAILABLE])
    assert await bench.work(ensure(**FRESH)) is None
    assert (bench.outcome["state"], bench.outcome["attempts"]) == ("sealed", 3)
    assert "failure" not in bench.outcome
    assert bench.turn.retried == [FailureClass.OPERATION_ABORTED], "the lane is told at the first of them"


@virtual_time
async def test_a_failure_that_time_does_not_mend_ends_the_tries():
    bench = Bench()
    bench.log_groups.failures[group()].extend([FailureClass.SERVICE_UNAVAILABLE, FailureClass.KEY_NOT_FOUND])
    assert await bench.work(ensure(**FRESH)) is None
    assert len(bench.log_groups.calls) == 2
    assert bench.outcome["failure"]["class"] == "key-not-found"


@virtual_time
async def test_the_waits_in_between_grow_and_have_a_limit():
    seen: set[float] = set()
    for _ in range(30):
        bench = Bench(attempts=8)
        bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
        await bench.work(ensure(**FRESH))
        assert len(bench.turn.waits) == 7
        for number, wait_s in enumerate(bench.turn.waits):
            assert 0 <= wait_s <= min(0.5 * 2**number, MAX_WAIT_S)
        seen.update(bench.turn.waits)
    assert len(seen) == 30 * 7  # jitter: not all together again


@virtual_time
async def test_each_throttle_slows_the_lane_and_nothing_else_does():
    bench = Bench()
    bench.log_groups.failures[group()].extend(
        [FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE, FailureClass.THROTTLED]
    )
    await bench.work(ensure(**FRESH))
    assert bench.turn.throttles == 2


@virtual_time
async def test_commands_worked_at_once_count_their_attempts_each_for_itself():
    bench = Bench()
    names = [str(number) for number in range(20)]
    for number, name in enumerate(names):
        bench.log_groups.failures[group(name)].extend([FailureClass.SERVICE_UNAVAILABLE] * (number % 4))
    await asyncio.gather(*(bench.worker.work(ensure(name, **FRESH), RecordingTurn()) for name in names))
    outcomes = {body["log_group"]: body for body in map(json.loads, bench.publisher.values(OUTCOMES))}
    assert {name: outcomes[name]["attempts"] for name in names} == {name: int(name) % 4 + 1 for name in names}
    assert {body["state"] for body in outcomes.values()} == {"sealed"}


# -- saying so


@virtual_time
async def test_every_request_that_asked_is_answered_under_its_own_id():
    bench = Bench()
    await bench.work(ensure(trigger=Trigger.REQUEST, requests=REQUEST_IDS))
    assert bench.topics == {OUTCOMES: 1, REQUESTS: 2}
    answers = [record for record in bench.publisher.records if record.topic == REQUESTS]
    assert [record.key for record in answers] == [request_id.encode() for request_id in REQUEST_IDS]
    for record, request_id in zip(answers, REQUEST_IDS, strict=True):
        answer = record_from_bytes(record.value)
        assert isinstance(answer, RequestOutcome)
        assert (answer.id, answer.log_group, answer.outcome["state"]) == (request_id, group(), "sealed")
        assert answer.at_ms == bench.outcome["at_ms"]


@virtual_time
async def test_the_outcome_names_the_record_that_first_asked():
    bench = Bench()
    await bench.work(
        EnsureCommand(log_group=group(), trigger=Trigger.SWEEP, accepted_at_ms=1, origin=Origin("e", 3, 42))
    )
    assert bench.outcome["origin"] == "e/3/42"


@virtual_time
async def test_a_command_from_the_future_took_no_time():
    bench = Bench()
    await bench.work(ensure(at_ms=NOW_MS + 3_600_000))
    assert bench.observer.outcomes[0][2] == 0


@pytest.mark.parametrize(
    ("failure", "topic"),
    [
        (None, OUTCOMES),
        (None, REQUESTS),
        (FailureClass.KEY_NOT_FOUND, RETRIES[0]),
        (FailureClass.KEY_NOT_FOUND, OUTCOMES),
        (FailureClass.INVALID_REQUEST, DEAD_LETTERS),
        (FailureClass.INVALID_REQUEST, OUTCOMES),
        (FailureClass.RESERVED_NAME, OUTCOMES),
    ],
)
@virtual_time
async def test_nothing_counts_as_done_until_every_record_of_it_is_durable(failure: FailureClass | None, topic: str):
    bench = Bench()
    bench.log_groups.failure = failure
    bench.publisher.stall(topic)
    work = asyncio.create_task(bench.work(ensure(requests=REQUEST_IDS, **FRESH)))
    await asyncio.sleep(3600)
    assert not work.done()
    assert bench.observer.outcomes == []
    if topic == DEAD_LETTERS:
        assert bench.observer.dead_letters == []
    if topic in (DEAD_LETTERS, *RETRIES):  # what is to be done goes before what is said of it
        assert bench.topics == {}
    bench.publisher.resume()
    assert await work is None
    assert len(bench.observer.outcomes) == 1


# -- when it is interrupted


@pytest.mark.parametrize("stage", ["deciding", "calling", "waiting", "reporting", "deferring"])
@virtual_time
async def test_a_cancelled_command_stops_where_it_is(stage: str):
    bench = Bench(attempts=100_000)
    match stage:
        case "deciding":
            bench.directory.is_outdated, bench.directory.latency_s = True, 100
        case "calling":
            bench.log_groups.latency_s = 100
        case "waiting":
            bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
            bench.log_groups.latency_s = 0
        case "reporting":
            bench.publisher.stall(OUTCOMES)
        case "deferring":
            bench.log_groups.failure = FailureClass.KEY_NOT_FOUND
            bench.publisher.stall(RETRIES[0])
        case _:
            raise AssertionError(stage)
    work = asyncio.create_task(bench.work(ensure(requests=REQUEST_IDS, **FRESH)))
    await asyncio.sleep(50)
    calls = len(bench.log_groups.calls)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    bench.publisher.resume()
    await asyncio.sleep(1000)
    assert len(bench.log_groups.calls) == calls
    assert OUTCOMES not in bench.topics
    assert bench.observer.outcomes == []


@virtual_time
async def test_a_command_that_is_given_up_while_it_waits_writes_nothing():
    bench = Bench()
    bench.turn.gives_up = True
    bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
    with pytest.raises(GivenUpError):
        await bench.work(ensure(requests=REQUEST_IDS, **FRESH))
    assert bench.topics == {}
    assert bench.observer.outcomes == []


@pytest.mark.parametrize("where", ["directory", "log groups", "publisher"])
@virtual_time
async def test_an_exception_that_nobody_foresaw_is_a_bug_and_passes(where: str, monkeypatch: pytest.MonkeyPatch):
    async def buggy(*_: object) -> None:
        raise ZeroDivisionError

    bench = Bench()
    if where == "directory":
        bench.directory.is_outdated = True
        monkeypatch.setattr(FakeDirectory, "decide", buggy)
    elif where == "log groups":
        monkeypatch.setattr(TimedLogGroups, "associate", buggy)
    else:
        bench.publisher.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await bench.work(ensure(**FRESH))
    assert bench.topics == {}
    assert bench.observer.outcomes == []


@virtual_time
async def test_of_the_requests_for_one_group_that_stays_deferred_so_many_are_kept_and_the_others_are_told_so():
    bench = Bench()
    bench.log_groups.failures[group()].append(FailureClass.KEY_NOT_USABLE)
    requests = tuple(new_request_id(number, bytes(10)) for number in range(MAX_REQUEST_IDS + 2))
    await bench.work(ensure(requests=requests, **FRESH))
    again = EnsureCommand.from_bytes(bench.only(RETRIES[0]).value)
    assert again.request_ids == requests[:MAX_REQUEST_IDS]
    assert len(again.to_bytes()) < 12_000
    answers = [record_from_bytes(value) for value in bench.publisher.values(REQUESTS)]
    assert [answer.id for answer in answers] == list(requests)
    details = [answer.outcome["detail"] for answer in answers if isinstance(answer, RequestOutcome)]
    assert ["ask again later" in detail for detail in details] == [False] * MAX_REQUEST_IDS + [True] * 2
    assert bench.outcome["requests"] == list(requests[:MAX_REQUEST_IDS])
