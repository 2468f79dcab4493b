import asyncio
import gc
import weakref

import pytest

from service.core.turn import Held
from service.core.verification import Verification
from service.domain.command import EnsureCommand, Priority, Trigger
from service.domain.outcome import FailureClass, Outcome, State
from service.domain.verify import VerifyCommand
from tests.support.fakes import LANE, OTHER_LANE, TENANT, RecordingObserver, TimedLogGroups, group, key_of
from tests.support.virtual_time import NothingToWaitForError, VirtualClock, run_in_virtual_time, virtual_time
from tests.unit.test_worker import RecordingTurn

AFTER_S = 5.0


class Bench:
    def __init__(self, after_s: float = AFTER_S) -> None:
        self.submitted: list[tuple[float, EnsureCommand | VerifyCommand]] = []
        self.log_groups = TimedLogGroups()
        self.observer = RecordingObserver()
        self.verification = Verification(
            submit=self._submit,
            log_groups=self.log_groups,
            clock=VirtualClock(),
            observer=self.observer,
            after_s=after_s,
        )

    def _submit(self, command) -> None:
        self.submitted.append((asyncio.get_running_loop().time(), command))

    def sealed(self, name: str = "g", lane=LANE, state: State = State.SEALED) -> None:
        log_group = group(name, lane)
        self.verification.ended(Outcome(log_group=log_group, state=state, tenant=TENANT, key=key_of(lane)))

    @property
    def looks(self) -> list[VerifyCommand]:
        return [command for _, command in self.submitted if isinstance(command, VerifyCommand)]


@virtual_time
async def test_groups_of_a_lane_are_looked_at_together_when_the_last_of_them_has_had_its_time():
    bench = Bench()
    began = asyncio.get_running_loop().time()
    for number in range(12):
        bench.sealed(str(number))
        bench.sealed(str(number), OTHER_LANE)
        await asyncio.sleep(1)
    await asyncio.sleep(60)
    times = [at - began for at, _ in bench.submitted]
    looks = [(at, look.lane, sorted(map(int, look.keys))) for at, look in zip(times, bench.looks, strict=True)]
    assert sorted(looks) == [
        (10, LANE, [0, 1, 2, 3, 4]),
        (10, OTHER_LANE, [0, 1, 2, 3, 4]),
        (15, LANE, [5, 6, 7, 8, 9]),
        (15, OTHER_LANE, [5, 6, 7, 8, 9]),
        (20, LANE, [10, 11]),
        (20, OTHER_LANE, [10, 11]),
    ]
    assert {look.priority for look in bench.looks} == {Priority.SWEEP}
    assert len({(look.lane, look.queue_key) for look in bench.looks}) == 6, "each has a place of its own in its lane"


@virtual_time
async def test_no_more_are_looked_at_together_than_one_call_takes():
    bench = Bench()
    for number in range(120):
        bench.sealed(str(number))
    await asyncio.sleep(60)
    assert [len(look.keys) for look in bench.looks] == [50, 50, 20]


@pytest.mark.parametrize("state", [state for state in State if state is not State.SEALED])
@virtual_time
async def test_only_what_was_sealed_is_looked_at(state: State):
    bench = Bench()
    bench.sealed(state=state)
    await asyncio.sleep(60)
    assert bench.submitted == []


@virtual_time
async def test_a_group_that_is_not_under_its_key_is_ensured_again_and_no_other():
    bench = Bench()
    for name in ("right", "bare", "other", "gone"):
        bench.sealed(name)
    bench.log_groups.keys = {group("right"): key_of(), group("other"): key_of(OTHER_LANE)}
    bench.log_groups.absent = {group("gone")}
    await asyncio.sleep(20)
    (look,) = bench.looks
    turn = RecordingTurn()
    assert await bench.verification.look(look, turn) is None
    assert turn.calls.total() == 1
    again = [command for _, command in bench.submitted if isinstance(command, EnsureCommand)]
    assert {command.log_group.name for command in again} == {"bare", "other"}
    assert {(command.trigger, command.shown_key) for command in again} == {(Trigger.VERIFY, None)}
    assert bench.observer.verifications == [(1, 2, 1)]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (FailureClass.UNREACHABLE, Held(FailureClass.UNREACHABLE, "as told")),
        (FailureClass.THROTTLED, None),
        (FailureClass.NOT_AUTHORIZED, None),
    ],
)
@virtual_time
async def test_a_look_that_fails_says_so_and_ensures_nothing(failure: FailureClass, expected: Held | None):
    bench = Bench()
    bench.sealed()
    bench.log_groups.describe_failures.append(failure)
    await asyncio.sleep(20)
    assert await bench.verification.look(bench.looks[0], RecordingTurn()) == expected
    assert bench.observer.verifications == [(0, 0, 1)]
    assert len(bench.submitted) == 1


@virtual_time
async def test_what_is_forgotten_is_not_looked_at_and_what_comes_later_is():
    bench = Bench()
    bench.sealed("a")
    await asyncio.sleep(1)
    bench.verification.forget()
    bench.verification.forget()
    bench.sealed("b")
    await asyncio.sleep(60)
    assert [list(look.keys) for look in bench.looks] == [["b"]]


@virtual_time
async def test_what_has_been_looked_at_is_not_kept():
    class Key(str):
        __slots__ = ("__weakref__",)

    bench = Bench()
    key = Key(key_of())
    bench.verification.ended(Outcome(log_group=group(), state=State.SEALED, tenant=TENANT, key=key))  # type: ignore[arg-type]
    kept = weakref.ref(key)
    del key
    await asyncio.sleep(60)
    assert len(bench.looks) == 1
    bench.submitted.clear()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("after_s", [0.0, AFTER_S])
def test_when_there_is_nothing_to_look_at_no_timer_is_set(after_s: float):
    async def idle() -> None:
        bench = Bench(after_s)
        bench.sealed()
        await asyncio.sleep(20)
        assert len(bench.submitted) == (after_s > 0)
        await asyncio.Event().wait()

    with pytest.raises(NothingToWaitForError):
        run_in_virtual_time(idle())


@virtual_time
async def test_a_look_that_is_answered_after_the_lanes_may_have_changed_hands_ensures_nothing():
    bench = Bench()
    bench.sealed()
    await asyncio.sleep(20)
    bench.log_groups.latency_s = 1.0
    look = asyncio.create_task(bench.verification.look(bench.looks[0], RecordingTurn()))
    await asyncio.sleep(0.5)
    bench.verification.forget()
    assert await look is None
    assert len(bench.submitted) == 1
