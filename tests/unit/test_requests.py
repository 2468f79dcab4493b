"""Manual requests: their records, the book, and taking, looking up and waiting for them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.core.requests import KeyReusedError, Requests
from service.core.waiting import CatchingUpError, NotAcknowledgedError
from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.log_group import LogGroup
from service.domain.outcome import FailureClass, Outcome, State
from service.domain.request import (
    MAX_LOG_GROUPS,
    MalformedRequestRecordError,
    RequestAccepted,
    RequestBook,
    RequestOutcome,
    RequestRecord,
    RequestState,
    is_request_id,
    new_request_id,
    record_from_bytes,
    repeated_request_id,
)
from service.ports import RecordTooLargeError
from tests.support.http import REQUESTS_TOPIC, WORK_TOPIC, caught_up_already
from tests.support.publisher import FakePublisher
from tests.support.virtual_time import EPOCH_MS, START_S, VirtualClock, virtual_time

ORDERS = LogGroup.of("111122223333", "eu-west-1", "/acme/orders")
PAYMENTS = LogGroup.of("111122223333", "eu-west-1", "/acme/payments")
ABROAD = LogGroup.of("444455556666", "us-east-1", "/acme/orders")
GROUPS = (ORDERS, PAYMENTS, ABROAD)
AT_MS = 1_772_442_847_000
ID = new_request_id(AT_MS, bytes(10))
ACCEPTED = RequestAccepted(id=ID, accepted_at_ms=AT_MS, log_groups=GROUPS, caller="alice")


def outcome(
    log_group: LogGroup, state: State = State.SEALED, *, at_ms: int = AT_MS + 1, id_: str = ID, **fields: Any
) -> RequestOutcome:
    return RequestOutcome(id=id_, at_ms=at_ms, outcome=Outcome(log_group=log_group, state=state, **fields).as_dict())


def deferred(log_group: LogGroup, *, at_s: float, retry_in_s: float | None) -> RequestOutcome:
    """At `at_s` of virtual time after the test's start."""
    at_ms = EPOCH_MS + int((START_S + at_s) * 1000)
    return outcome(log_group, State.DEFERRED, at_ms=at_ms, retry_in_s=retry_in_s)


def book_of(*records: RequestRecord, capacity: int = 1000) -> RequestBook:
    book = RequestBook(capacity=capacity)
    for record in records:
        book.apply(record)
    return book


def a_replica(
    publisher: FakePublisher | None = None,
    *,
    caught_up: Callable[[], Awaitable[None]] = caught_up_already,
    capacity: int = 1000,
) -> Requests:
    return Requests(
        publisher=publisher or FakePublisher(),
        clock=VirtualClock(),
        book=RequestBook(capacity=capacity),
        requests_topic=REQUESTS_TOPIC,
        work_topic=WORK_TOPIC,
        caught_up=caught_up,
        ack_timeout_s=10.0,
        catch_up_timeout_s=5.0,
    )


# -- ids


def test_ids_sort_by_time_and_tell_requests_of_one_millisecond_apart():
    ids = [new_request_id(at_ms, entropy) for at_ms in (1, AT_MS, AT_MS + 1) for entropy in (bytes(10), b"\xff" * 10)]

    assert ids == sorted(set(ids))
    assert all(is_request_id(i) for i in ids)


def test_an_idempotency_key_gives_one_id_to_one_caller():
    assert repeated_request_id("alice", "k") == repeated_request_id("alice", "k")
    assert is_request_id(repeated_request_id("alice", "k"))
    others = {repeated_request_id(*p) for p in (("alice", "k"), ("bob", "k"), ("alice", "k2"), ("alicek", ""))}
    assert len(others) == 4


@pytest.mark.parametrize("text", ["", "req-", ID.upper(), ID + "0", ID[:-1] + "u", ID + "\n", "../" + ID])
def test_what_no_replica_could_have_given_is_no_id(text):
    assert not is_request_id(text)


# -- records


@pytest.mark.parametrize(
    "record",
    [ACCEPTED, outcome(ORDERS), outcome(ABROAD, State.FAILED, failure=FailureClass.KEY_NOT_USABLE, detail="no: é")],
)
def test_a_record_is_read_back_as_it_was_written(record):
    assert record_from_bytes(record.to_bytes()) == record


def test_the_largest_request_fits_in_a_record_of_a_broker_with_default_limits():
    log_groups = tuple(LogGroup.of("111122223333", "ap-southeast-2", f"{n:0512}") for n in range(MAX_LOG_GROUPS))

    assert len(replace(ACCEPTED, log_groups=log_groups).to_bytes()) < 1_000_000


def changed(record: RequestRecord, **fields: Any) -> bytes:
    return json.dumps(json.loads(record.to_bytes()) | fields).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'{"v":1}',
        changed(ACCEPTED, v=2),
        changed(ACCEPTED, kind="cancelled"),
        changed(ACCEPTED, id="req-1"),
        changed(ACCEPTED, id=7),
        changed(ACCEPTED, at="now"),
        changed(ACCEPTED, at=-1),
        changed(ACCEPTED, at=10**18),
        changed(ACCEPTED, by=None),
        changed(ACCEPTED, by="\ud800"),
        changed(ACCEPTED, log_groups=[]),
        changed(ACCEPTED, log_groups=["111122223333:eu-west-1"]),
        changed(ACCEPTED, log_groups=["1:eu-west-1:/acme/orders"]),
        changed(ACCEPTED, log_groups=[None]),
        changed(outcome(ORDERS), outcome={}),
        changed(outcome(ORDERS), outcome={**outcome(ORDERS).outcome, "state": 1}),
        changed(outcome(ORDERS), outcome={**outcome(ORDERS).outcome, "account": "1"}),
        changed(outcome(ORDERS), outcome={**outcome(ORDERS).outcome, "attempts": float("inf")}),
    ],
)
def test_what_is_no_record_of_ours_is_called_malformed(value):
    with pytest.raises(MalformedRequestRecordError):
        record_from_bytes(value)


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
    lambda x: json.dumps(x).encode()
))  # fmt: skip
def test_no_bytes_raise_anything_else(value):
    with pytest.raises(MalformedRequestRecordError):
        record_from_bytes(value)


# -- the book


def test_a_request_is_pending_until_every_log_group_has_had_its_last_word():
    book = book_of(ACCEPTED)
    seen = []
    for record in (
        outcome(ORDERS),
        outcome(PAYMENTS, State.DEFERRED),
        outcome(ABROAD),
        outcome(PAYMENTS, State.ALREADY_SEALED, at_ms=AT_MS + 9),
    ):
        book.apply(record)
        status = book.find(ID)
        assert status is not None
        seen.append((status.state, status.is_answered, book.is_answered(ID)))

    assert seen == [
        (RequestState.PENDING, False, False),
        (RequestState.PENDING, False, False),
        (RequestState.PENDING, True, True),
        (RequestState.DONE, True, True),
    ]


def test_a_status_shows_every_log_group_in_the_order_of_the_request():
    status = book_of(ACCEPTED, outcome(PAYMENTS, tenant="acme")).find(ID)

    assert status is not None
    assert status.as_dict() == {
        "id": ID,
        "state": "pending",
        "caller": "alice",
        "accepted_at": "2026-03-02T09:14:07.000+00:00",
        "counts": {"pending": 2, "sealed": 1},
        "log_groups": [
            {"account": "111122223333", "region": "eu-west-1", "log_group": "/acme/orders", "state": "pending"},
            dict(outcome(PAYMENTS, tenant="acme").outcome),
            {"account": "444455556666", "region": "us-east-1", "log_group": "/acme/orders", "state": "pending"},
        ],
    }


def test_a_request_whose_acceptance_has_not_come_yet_is_not_known_and_then_complete():
    book = book_of(*(outcome(g) for g in GROUPS))
    assert book.find(ID) is None
    assert not book.is_answered(ID)

    book.apply(ACCEPTED)

    status = book.find(ID)
    assert status is not None
    assert status.state is RequestState.DONE


def test_a_deferral_that_comes_late_does_not_undo_the_last_word():
    status = book_of(ACCEPTED, outcome(ORDERS), outcome(ORDERS, State.DEFERRED, at_ms=AT_MS + 60_000)).find(ID)

    assert status is not None
    assert status.outcomes[ORDERS].outcome["state"] == "sealed"


def test_a_state_that_only_a_newer_release_knows_is_shown_and_final():
    newer = replace(outcome(ORDERS), outcome={**outcome(ORDERS).outcome, "state": "polished"})
    status = book_of(replace(ACCEPTED, log_groups=(ORDERS,)), newer).find(ID)

    assert status is not None
    assert status.state is RequestState.DONE
    assert status.as_dict()["counts"] == {"polished": 1}


RECORDS = st.one_of(
    st.builds(
        replace,
        st.just(ACCEPTED),
        accepted_at_ms=st.integers(AT_MS, AT_MS + 2),
        log_groups=st.sampled_from([GROUPS, GROUPS[:1], GROUPS[1:]]),
    ),
    st.builds(
        outcome,
        st.sampled_from(GROUPS),
        st.sampled_from([State.SEALED, State.DEFERRED, State.FAILED]),
        at_ms=st.integers(AT_MS, AT_MS + 3),
    ),
)


@given(st.lists(RECORDS, max_size=12), st.randoms(use_true_random=False))
def test_the_book_depends_on_which_records_came_not_on_their_order_or_number(records, random):
    again = records + random.sample(records, k=len(records) // 2)
    random.shuffle(again)

    assert book_of(*again).find(ID) == book_of(*records).find(ID)


def request_of(number: int, *log_groups: LogGroup) -> RequestAccepted:
    at_ms = AT_MS + number
    return RequestAccepted(id=new_request_id(at_ms, bytes(10)), accepted_at_ms=at_ms, log_groups=log_groups, caller="a")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_full_book_forgets_the_oldest_request_in_whatever_order_they_came(order):
    requests = [request_of(n, *GROUPS) for n in range(3)]
    book = book_of(*(requests[n] for n in order), capacity=6)

    assert [book.find(r.id) is not None for r in requests] == [False, True, True]
    assert len(book) == 2


def test_outcomes_take_room_in_the_book_too():
    old, new = request_of(0, *GROUPS), request_of(1, *GROUPS)
    book = book_of(old, new, capacity=6)
    assert book.find(old.id) is not None

    book.apply(outcome(ORDERS, id_=new.id))

    assert book.find(old.id) is None
    assert book.find(new.id) is not None


def test_a_request_larger_than_the_book_is_known_while_it_is_the_only_one():
    book = book_of(ACCEPTED, capacity=1)
    assert book.find(ID) is not None


def test_repeats_take_no_room_and_what_is_forgotten_gives_its_room_back():
    book = RequestBook(capacity=2 * (len(GROUPS) + len(GROUPS)))
    requests = [request_of(number, *GROUPS) for number in range(50)]
    for request in requests:
        for record in [request, request]:
            book.apply(record)
        for log_group in GROUPS * 2:
            book.apply(outcome(log_group, id_=request.id))

    assert [r.id for r in requests if book.find(r.id)] == [r.id for r in requests[-2:]]


# -- submitting


@virtual_time
async def test_a_request_is_written_after_its_commands_and_answered_for_after_all_of_them():
    publisher = FakePublisher()
    status = await a_replica(publisher).submit([*GROUPS, ORDERS], caller="alice")

    assert [r.topic for r in publisher.records] == [WORK_TOPIC, WORK_TOPIC, WORK_TOPIC, REQUESTS_TOPIC]
    assert publisher.records[-1].key == status.id.encode()
    accepted = record_from_bytes(publisher.records[-1].value)
    assert accepted == status.accepted
    assert status.log_groups == GROUPS
    assert status.state is RequestState.PENDING
    for log_group, record in zip(GROUPS, publisher.records[:-1], strict=True):
        command = EnsureCommand.from_bytes(record.value)
        assert record.key == command.partition_key
        assert command == EnsureCommand(
            log_group=log_group,
            trigger=Trigger.REQUEST,
            accepted_at_ms=status.accepted.accepted_at_ms,
            request_ids=(status.id,),
        )
        assert command.priority is Priority.URGENT


@virtual_time
async def test_a_request_whose_commands_are_not_all_written_is_none_and_a_repeat_completes_it():
    class Publisher(FakePublisher):
        async def publish(self, record):
            if record.key == str(ABROAD.lane).encode():
                await stalled.wait()
            await super().publish(record)

    stalled, publisher = asyncio.Event(), Publisher()
    requests = a_replica(publisher)
    with pytest.raises(NotAcknowledgedError) as raised:
        await requests.submit(GROUPS, caller="alice", idempotency_key="k")
    id_ = raised.value.what
    assert [record.topic for record in publisher.records] == [WORK_TOPIC, WORK_TOPIC]
    for each in (requests, a_replica(publisher)):
        assert await each.find(id_) is None, "nobody waits for a command that may not exist"

    requests.apply(outcome(ORDERS, id_=id_).to_bytes())  # what was written is carried out
    stalled.set()
    status = await requests.submit(GROUPS, caller="alice", idempotency_key="k")
    assert status.id == id_
    assert status.unanswered == [PAYMENTS, ABROAD]
    assert {EnsureCommand.from_bytes(v).log_group for v in publisher.values(WORK_TOPIC)} == set(GROUPS)


@virtual_time
async def test_an_answer_that_comes_before_the_acceptance_is_waited_for_by_nobody():
    requests = a_replica()
    for group in GROUPS:
        requests.apply(outcome(group).to_bytes())
    assert await requests.find(ID) is None
    requests.apply(ACCEPTED.to_bytes())
    status = await requests.answered(ID, 60)
    assert status is not None
    assert status.state is RequestState.DONE


@virtual_time
async def test_commands_are_written_concurrently_and_waited_for_within_the_time_limit():
    publisher = FakePublisher()
    publisher.stall(WORK_TOPIC)
    requests = a_replica(publisher)
    started = asyncio.get_running_loop().time()
    submitting = asyncio.create_task(requests.submit(GROUPS, caller="alice"))
    await asyncio.sleep(1)
    assert publisher.waiting == len(GROUPS)

    with pytest.raises(NotAcknowledgedError) as raised:
        await submitting

    assert asyncio.get_running_loop().time() - started == 10
    assert publisher.waiting == 0
    assert await requests.find(raised.value.what) is None


@virtual_time
async def test_a_broker_that_comes_back_within_the_time_limit_is_waited_for():
    publisher = FakePublisher()
    publisher.stall()
    asyncio.get_running_loop().call_later(9, publisher.resume)

    await a_replica(publisher).submit(GROUPS, caller="alice")

    assert len(publisher.records) == 1 + len(GROUPS)


@virtual_time
async def test_a_command_whose_publish_was_cancelled_from_inside_is_not_taken_for_written():
    class StoppingPublisher(FakePublisher):
        async def publish(self, record):
            if record.topic == WORK_TOPIC:
                raise asyncio.CancelledError
            await super().publish(record)

    with pytest.raises(asyncio.CancelledError):
        await a_replica(StoppingPublisher()).submit(GROUPS, caller="alice")


@virtual_time
async def test_a_record_that_the_broker_refuses_is_no_request():
    publisher = FakePublisher(failure=RecordTooLargeError("requests"))
    with pytest.raises(RecordTooLargeError):
        await a_replica(publisher).submit(GROUPS, caller="alice")


@virtual_time
async def test_a_repeat_with_the_same_key_is_the_same_request_and_sends_what_has_no_outcome():
    publisher = FakePublisher()
    requests = a_replica(publisher)
    first = await requests.submit(GROUPS, caller="alice", idempotency_key="k")
    requests.apply(outcome(ORDERS, id_=first.id).to_bytes())
    requests.apply(outcome(ABROAD, State.DEFERRED, id_=first.id).to_bytes())
    publisher.records.clear()
    await asyncio.sleep(1)

    again = await requests.submit(GROUPS[::-1], caller="alice", idempotency_key="k")

    assert again.accepted == first.accepted
    commands = [EnsureCommand.from_bytes(v) for v in publisher.values(WORK_TOPIC)]
    assert [(c.log_group, c.accepted_at_ms) for c in commands] == [(PAYMENTS, first.accepted.accepted_at_ms)]
    assert publisher.values(REQUESTS_TOPIC) == []


@virtual_time
async def test_a_key_is_not_for_two_requests():
    publisher = FakePublisher()
    requests = a_replica(publisher)
    await requests.submit(GROUPS, caller="alice", idempotency_key="k")
    publisher.records.clear()

    with pytest.raises(KeyReusedError):
        await requests.submit([ORDERS], caller="alice", idempotency_key="k")

    assert publisher.records == []
    assert (await requests.submit([ORDERS], caller="bob", idempotency_key="k")).log_groups == (ORDERS,)


@virtual_time
async def test_requests_without_a_key_are_never_the_same():
    requests = a_replica()
    ids = {(await requests.submit(GROUPS, caller="alice")).id for _ in range(10)}
    assert len(ids) == 10


# -- looking up


@virtual_time
async def test_another_replica_answers_for_a_request_that_it_reads_from_the_topic():
    publisher = FakePublisher()
    submitted = await a_replica(publisher).submit(GROUPS, caller="alice")
    other = a_replica()
    for value in publisher.values(REQUESTS_TOPIC):
        other.apply(value)

    assert await other.find(submitted.id) == submitted


@virtual_time
async def test_a_replica_reads_to_the_end_of_the_topic_before_it_says_that_there_is_no_such_request():
    async def caught_up():
        await asyncio.sleep(3)
        requests.apply(ACCEPTED.to_bytes())

    requests = a_replica(caught_up=caught_up)

    status = await requests.find(ID)

    assert status is not None
    assert await requests.find(new_request_id(AT_MS, b"0123456789")) is None


@virtual_time
async def test_a_replica_that_cannot_catch_up_in_time_says_so_but_answers_for_what_it_knows():
    async def never():
        await asyncio.Event().wait()

    requests = a_replica(caught_up=never)
    requests.apply(ACCEPTED.to_bytes())
    started = asyncio.get_running_loop().time()

    with pytest.raises(CatchingUpError):
        await requests.find(new_request_id(AT_MS, b"0123456789"))

    assert asyncio.get_running_loop().time() - started == 5
    assert await requests.find(ID) is not None
    assert await requests.find("no-id-at-all") is None  # not asked of anybody


@virtual_time
async def test_a_foreign_record_is_logged_and_passed_over():
    requests = a_replica()
    with capture_logs() as logs:
        requests.apply(b"hello")
    requests.apply(ACCEPTED.to_bytes())

    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("request_record_skipped", "warning")]
    assert await requests.find(ID) is not None


# -- waiting


@virtual_time
async def test_waiting_ends_with_the_last_answer():
    requests = a_replica()
    requests.apply(ACCEPTED.to_bytes())
    loop = asyncio.get_running_loop()
    started = loop.time()
    loop.call_later(2, requests.apply, outcome(ORDERS).to_bytes())
    loop.call_later(4, requests.apply, deferred(PAYMENTS, at_s=4, retry_in_s=3600).to_bytes())
    loop.call_later(6, requests.apply, outcome(ABROAD).to_bytes())

    waiters = [asyncio.create_task(requests.answered(ID, 30)) for _ in range(3)]
    statuses = await asyncio.gather(*waiters)

    assert loop.time() - started == 6
    for status in statuses:
        assert status is not None
        assert status.is_answered
        assert status.state is RequestState.PENDING  # one is deferred


@virtual_time
async def test_waiting_for_what_is_answered_takes_no_time():
    requests = a_replica()
    for value in (ACCEPTED.to_bytes(), *(outcome(g).to_bytes() for g in GROUPS)):
        requests.apply(value)
    started = asyncio.get_running_loop().time()

    status = await requests.answered(ID, 30)

    assert status is not None
    assert status.state is RequestState.DONE
    assert asyncio.get_running_loop().time() == started


@pytest.mark.parametrize("retry_in_s", [7.0, None])
@virtual_time
async def test_a_deferred_log_group_is_waited_for_while_it_is_tried_again_in_time(retry_in_s):
    requests = a_replica()
    requests.apply(ACCEPTED.to_bytes())
    loop = asyncio.get_running_loop()
    started = loop.time()
    for group in GROUPS:
        loop.call_later(1, requests.apply, deferred(group, at_s=1, retry_in_s=retry_in_s).to_bytes())
        loop.call_later(9, requests.apply, outcome(group).to_bytes())

    status = await requests.answered(ID, 20)

    assert loop.time() - started == 9
    assert status is not None
    assert status.state is RequestState.DONE


@virtual_time
async def test_a_log_group_that_is_deferred_beyond_the_time_limit_is_not_waited_for():
    requests = a_replica()
    requests.apply(ACCEPTED.to_bytes())
    for group in GROUPS:
        requests.apply(deferred(group, at_s=0, retry_in_s=20.1).to_bytes())
    loop = asyncio.get_running_loop()
    started = loop.time()

    status = await requests.answered(ID, 20)

    assert loop.time() == started
    assert status is not None
    assert status.state is RequestState.PENDING


@virtual_time
async def test_waiting_ends_at_the_time_limit_with_what_is_known():
    requests = a_replica()
    requests.apply(ACCEPTED.to_bytes())
    loop = asyncio.get_running_loop()
    started = loop.time()
    loop.call_later(2, requests.apply, outcome(ORDERS).to_bytes())

    status = await requests.answered(ID, 7)

    assert loop.time() - started == 7
    assert status is not None
    assert list(status.outcomes) == [ORDERS]


@virtual_time
async def test_nobody_waits_for_a_request_that_does_not_exist():
    assert await a_replica().answered(ID, 30) is None


@virtual_time
async def test_closing_lets_everybody_go_with_what_is_known():
    requests = a_replica()
    requests.apply(ACCEPTED.to_bytes())
    loop = asyncio.get_running_loop()
    started = loop.time()
    loop.call_later(1, requests.close)

    early, late = await requests.answered(ID, 30), await requests.answered(ID, 30)

    assert loop.time() - started == 1
    assert early is not None
    assert early == late


@virtual_time
async def test_a_request_that_is_forgotten_while_somebody_waits_is_no_longer_known():
    requests = a_replica(capacity=3)
    requests.apply(ACCEPTED.to_bytes())
    asyncio.get_running_loop().call_later(1, requests.apply, request_of(1, *GROUPS).to_bytes())

    assert await requests.answered(ID, 5) is None
