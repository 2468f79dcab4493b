import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from service.dead_letters import DeadLetters
from service.dispatcher import Held, Turn
from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.dead_letter import DeadLetterLimit
from service.domain.log_group import KeyArn, TenantId
from service.domain.outcome import FailureClass, Recourse, State
from service.domain.request import RequestOutcome, new_request_id, record_from_bytes
from service.domain.tenancy import Decision, Excluded, Owned, Undecided
from service.ports import GivenUpError, OutgoingRecord
from service.worker import DUE_HEADER, RetryPolicy, Topics, Worker
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
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import EPOCH_MS, START_S, VirtualClock, virtual_time

DELAYS_S = (30.0, 120.0, 600.0)
ATTEMPTS, MAX_WAIT_S = 6, 5.0
NOW_MS = EPOCH_MS + int(START_S * 1000)
OUTCOMES, REQUESTS, DEAD_LETTERS = "outcomes", "requests", "dead-letters"
RETRIES = ("retry.1", "retry.2", "retry.3")
REQUEST_IDS = tuple(new_request_id(NOW_MS, bytes([n] * 10)) for n in range(2))


class RecordingTurn(Turn):
    """A turn whose next token is always there when the wait is over."""

    __slots__ = ("gives_up", "is_fresh", "spent", "throttles", "waits")

    def __init__(self) -> None:
        self.has_token = True
        self.waits: list[float] = []
        self.throttles = 0
        self.spent = 0
        self.gives_up = False
        self.is_fresh = False

    def give_back(self) -> None:
        self.has_token = False

    async def ready(self) -> None:
        self.has_token = self.is_fresh = True

    def spend(self) -> None:
        assert self.has_token, "a call without a token"
        assert self.is_fresh, "a call with a token that may be old"
        self.has_token = self.is_fresh = False
        self.spent += 1

    async def again(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        if self.gives_up:
            raise GivenUpError
        await asyncio.sleep(delay_s)
        self.has_token = True

    def throttled(self) -> None:
        self.throttles += 1


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
        self.publisher = FakePublisher()
        self.observer = RecordingObserver()
        self.turn = RecordingTurn()
        self.worker = Worker(
            directory=self.directory,
            log_groups=self.log_groups,
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
            retry=RetryPolicy(attempts=attempts, max_wait_s=MAX_WAIT_S, delays_s=delays_s),
            is_dry_run=is_dry_run,
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


# -- what is decided


@virtual_time
async def test_a_group_goes_under_the_key_of_its_tenant():
    bench = Bench()
    command = ensure(at_ms=NOW_MS - 1500)
    assert await bench.work(command) is None
    (call,) = bench.log_groups.calls
    assert (call.log_group, call.key) == (group(), key_of())
    assert not bench.turn.has_token
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
    assert bench.observer.calls == [(LANE, None, 0.25)]


@virtual_time
async def test_an_excluded_group_is_left_alone():
    bench = Bench()
    bench.directory.decisions[group()] = Excluded("excluded by name: /scratch/*")
    assert await bench.work(ensure()) is None
    assert bench.log_groups.calls == []
    assert bench.topics == {OUTCOMES: 1}
    assert (bench.outcome["state"], bench.outcome["detail"]) == ("excluded", "excluded by name: /scratch/*")
    assert bench.turn.spent == 0
    assert not bench.turn.has_token, "it was given back"


@virtual_time
async def test_a_group_that_shows_the_right_key_needs_no_call():
    bench = Bench()
    assert await bench.work(ensure(trigger=Trigger.KEY_ASSOCIATED, shown_key=key_of())) is None
    assert bench.log_groups.calls == []
    assert bench.topics == {OUTCOMES: 1}
    assert (bench.outcome["state"], bench.outcome["key"]) == ("already-sealed", key_of())
    assert bench.turn.spent == 0
    assert not bench.turn.has_token, "it was given back"


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
    assert bench.directory.asked == [(group(), {"team": "a"})] * 2
    assert [call.key for call in bench.log_groups.calls] == [decision.key for decision in tenants]


@pytest.mark.parametrize("shown", [None, {}, {"team": "whatever a sender claims"}])
@virtual_time
async def test_where_tags_matter_they_are_looked_up_whatever_the_trigger_shows(shown: dict[str, str] | None):
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tags[group()] = {"team": "b"}
    await bench.work(ensure(tags=shown))
    assert bench.directory.asked == [(group(), {"team": "b"})]
    assert bench.outcome["attempts"] == 1
    assert bench.turn.spent == 2, "a look-up takes a token too"


@pytest.mark.parametrize("shown", [None, {}, {"team": "a"}])
@virtual_time
async def test_where_they_do_not_matter_they_are_not(shown: dict[str, str] | None):
    bench = Bench()
    await bench.work(ensure(tags=shown))
    assert bench.log_groups.lookups == []
    assert bench.directory.asked == [(group(), shown)]


@virtual_time
async def test_a_look_up_that_fails_for_a_moment_is_tried_again():
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tag_failures.extend([FailureClass.THROTTLED, FailureClass.SERVICE_UNAVAILABLE])
    await bench.work(ensure())
    assert len(bench.log_groups.lookups) == 3
    assert (bench.outcome["state"], bench.outcome["attempts"]) == ("sealed", 1)


@pytest.mark.parametrize("deferrals", [0, 1, 3])
@pytest.mark.parametrize("failure", FailureClass)
@virtual_time
async def test_every_failure_of_a_look_up_leads_where_the_table_says_and_no_key_is_used(
    failure: FailureClass, deferrals: int
):
    bench = Bench()
    bench.directory.by_tags = True
    bench.log_groups.tag_failures.extend([failure] * ATTEMPTS)
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals)
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert bench.log_groups.calls == []
    assert len(bench.log_groups.lookups) == (ATTEMPTS if failure.is_retried_in_place else 1)


@virtual_time
async def test_a_dry_run_says_what_it_would_do_and_does_nothing():
    bench = Bench(is_dry_run=True)
    assert await bench.work(ensure()) is None
    assert bench.log_groups.calls == []
    assert (bench.outcome["state"], bench.outcome["is_dry_run"]) == ("would-seal", True)
    assert bench.outcome["detail"] == "everything is tenant-a's"
    assert bench.turn.spent == 0
    assert not bench.turn.has_token, "it was given back"


@pytest.mark.parametrize("is_dry_run", [False, True])
@virtual_time
async def test_a_registry_that_is_away_holds_the_command_and_writes_nothing(is_dry_run: bool):
    bench = Bench(is_dry_run=is_dry_run)
    bench.directory.failure = FailureClass.REGISTRY_UNAVAILABLE
    held = await bench.work(ensure(requests=REQUEST_IDS))
    assert held == Held(FailureClass.REGISTRY_UNAVAILABLE, "the registry is away")
    assert bench.topics == {}
    assert bench.observer.outcomes == []
    assert bench.turn.spent == 0
    assert not bench.turn.has_token, "it was given back"


# -- what becomes of each failure, however often the command has been deferred


def expected_end(failure: FailureClass, deferrals: int) -> tuple[str | None, State | None]:
    """The topic that the command goes to, besides the outcome, and the state of the outcome; None for none."""
    match failure.recourse:
        case Recourse.HOLD:
            return None, None
        case Recourse.EXCLUDE:
            return None, State.EXCLUDED
        case Recourse.DEAD_LETTER:
            return DEAD_LETTERS, State.FAILED
        case Recourse.DEFER_ALWAYS:
            return RETRIES[min(deferrals, 2)], State.DEFERRED
        case Recourse.DEFER_ONCE_THEN_VANISHED:
            return (None, State.VANISHED) if deferrals else (RETRIES[0], State.DEFERRED)
        case Recourse.DEFER:
            return (DEAD_LETTERS, State.FAILED) if deferrals >= 3 else (RETRIES[deferrals], State.DEFERRED)


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
        assert record.value == command.deferred().to_bytes()
        assert bench.outcome["retry_in_s"] == delay_s
        due_in_ms = int(headers[DUE_HEADER]) - bench.outcome["at_ms"]
        assert due_in_ms == pytest.approx(delay_s * 1000)
    else:
        assert record.value == command.to_bytes()
        assert headers["logwarden-class"] == failure.label.encode()


@pytest.mark.parametrize("deferrals", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("failure", FailureClass)
@virtual_time
async def test_every_failure_of_a_call_leads_where_the_table_says(failure: FailureClass, deferrals: int):
    bench = Bench()
    bench.log_groups.failure = failure
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals, shown_key="")
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert len(bench.log_groups.calls) == (ATTEMPTS if failure.is_retried_in_place else 1)
    assert [f for _, f, _ in bench.observer.calls] == [failure] * len(bench.log_groups.calls)
    if bench.publisher.records:
        assert bench.outcome["attempts"] == len(bench.log_groups.calls)
        assert bench.outcome["key"] == key_of()


@pytest.mark.parametrize("deferrals", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("failure", FailureClass)
@virtual_time
async def test_every_reason_not_to_decide_leads_where_the_table_says(failure: FailureClass, deferrals: int):
    bench = Bench()
    bench.directory.decisions[group()] = Undecided(failure, "two rules match", TENANT)
    command = ensure(requests=REQUEST_IDS, deferrals=deferrals)
    held = await bench.work(command)
    check_end(bench, command, failure, held)
    assert bench.log_groups.calls == []
    if bench.publisher.records:
        assert (bench.outcome["tenant"], bench.outcome["detail"], bench.outcome["attempts"]) == (
            TENANT,
            "two rules match",
            0,
        )


@virtual_time
async def test_without_retry_topics_nothing_is_lost_either():
    for failure in FailureClass:
        bench = Bench(delays_s=())
        bench.log_groups.failure = failure
        held = await bench.work(ensure())
        assert (held is not None) == (failure.recourse in (Recourse.HOLD, Recourse.DEFER_ALWAYS))
        assert set(bench.topics) <= {OUTCOMES, DEAD_LETTERS}
        assert (DEAD_LETTERS in bench.topics) == (failure.recourse in (Recourse.DEFER, Recourse.DEAD_LETTER))


@virtual_time
async def test_past_the_limit_of_dead_letters_a_command_is_left_as_it_is():
    bench = Bench(max_dead_letters=0)
    bench.log_groups.failure = FailureClass.INVALID_REQUEST
    with pytest.raises(GivenUpError):
        await bench.work(ensure(requests=REQUEST_IDS))
    assert bench.topics == {}
    assert bench.observer.outcomes == []
    assert len(bench.observer.stops) == 1


# -- trying again in place


@virtual_time
async def test_a_call_that_fails_for_a_moment_is_tried_again():
    bench = Bench()
    bench.log_groups.failures[group()].extend([FailureClass.OPERATION_ABORTED, FailureClass.SERVICE_UNAVAILABLE])
    assert await bench.work(ensure()) is None
    assert (bench.outcome["state"], bench.outcome["attempts"]) == ("sealed", 3)
    assert "failure" not in bench.outcome
    assert [failure for _, failure, _ in bench.observer.calls] == [
        FailureClass.OPERATION_ABORTED,
        FailureClass.SERVICE_UNAVAILABLE,
        None,
    ]


@virtual_time
async def test_a_failure_that_time_does_not_mend_ends_the_tries():
    bench = Bench()
    bench.log_groups.failures[group()].extend([FailureClass.SERVICE_UNAVAILABLE, FailureClass.KEY_NOT_FOUND])
    assert await bench.work(ensure()) is None
    assert len(bench.log_groups.calls) == 2
    assert bench.outcome["failure"]["class"] == "key-not-found"


@virtual_time
async def test_the_waits_in_between_grow_and_have_a_limit():
    seen: set[float] = set()
    for _ in range(30):
        bench = Bench(attempts=8)
        bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
        await bench.work(ensure())
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
    await bench.work(ensure())
    assert bench.turn.throttles == 2


@virtual_time
async def test_commands_worked_at_once_count_their_attempts_each_for_itself():
    bench = Bench()
    names = [str(number) for number in range(20)]
    for number, name in enumerate(names):
        bench.log_groups.failures[group(name)].extend([FailureClass.SERVICE_UNAVAILABLE] * (number % 4))
    await asyncio.gather(*(bench.worker.work(ensure(name), RecordingTurn()) for name in names))
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
    work = asyncio.create_task(bench.work(ensure(requests=REQUEST_IDS)))
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
            bench.directory.latency_s = 100
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
    work = asyncio.create_task(bench.work(ensure(requests=REQUEST_IDS)))
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
async def test_a_call_that_was_cut_off_is_not_counted_as_one_that_went_well():
    bench = Bench()
    bench.log_groups.latency_s = 100
    work = asyncio.create_task(bench.work(ensure()))
    await asyncio.sleep(50)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(bench.log_groups.calls) == 1
    assert bench.observer.calls == []


@virtual_time
async def test_a_command_that_is_given_up_while_it_waits_writes_nothing():
    bench = Bench()
    bench.turn.gives_up = True
    bench.log_groups.failure = FailureClass.SERVICE_UNAVAILABLE
    with pytest.raises(GivenUpError):
        await bench.work(ensure(requests=REQUEST_IDS))
    assert bench.topics == {}
    assert bench.observer.outcomes == []


@pytest.mark.parametrize("where", ["directory", "log groups", "publisher"])
@virtual_time
async def test_an_exception_that_nobody_foresaw_is_a_bug_and_passes(where: str, monkeypatch: pytest.MonkeyPatch):
    async def buggy(*_: object) -> None:
        raise ZeroDivisionError

    bench = Bench()
    if where == "directory":
        monkeypatch.setattr(FakeDirectory, "decide", buggy)
    elif where == "log groups":
        monkeypatch.setattr(TimedLogGroups, "associate", buggy)
    else:
        bench.publisher.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await bench.work(ensure())
    assert bench.topics == {}
    assert bench.observer.outcomes == []
    assert bench.observer.calls == ([(LANE, None, 0.25)] if where == "publisher" else [])
