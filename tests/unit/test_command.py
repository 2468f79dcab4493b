import json
import sys
from typing import Any

import pytest

from service.domain.command import (
    MAX_REQUEST_IDS,
    EnsureCommand,
    MalformedCommandError,
    Origin,
    Priority,
    Trigger,
)
from service.domain.log_group import LogGroup

GROUP = LogGroup.of("111122223333", "eu-west-1", "/app/a")
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0d9ac4b8"
BODY: dict[str, Any] = {
    "v": 1,
    "account": "111122223333",
    "region": "eu-west-1",
    "log_group": "/app/a",
    "trigger": "created",
    "at": 1_750_000_000_000,
}


def command(
    trigger: Trigger = Trigger.CREATED,
    *,
    at: int = 100,
    origin: Origin | None = None,
    tags: dict[str, str] | None = None,
    shown_key: str | None = None,
    requests: tuple[str, ...] = (),
    deferrals: int = 0,
    strikes: int = 0,
) -> EnsureCommand:
    return EnsureCommand(
        log_group=GROUP,
        trigger=trigger,
        accepted_at_ms=at,
        origin=origin,
        tags=tags,
        shown_key=shown_key,
        request_ids=requests,
        deferrals=deferrals,
        strikes=strikes,
    )


def malformed(body: Any) -> str:
    with pytest.raises(MalformedCommandError) as refused:
        EnsureCommand.from_bytes(body if isinstance(body, bytes) or body is None else json.dumps(body).encode())
    return refused.value.field


# -- on the wire


def test_the_bytes_of_a_command_do_not_change_between_releases():
    full = EnsureCommand(
        log_group=GROUP,
        trigger=Trigger.KEY_ASSOCIATED,
        accepted_at_ms=1_750_000_000_000,
        origin=Origin("logwarden.events", 3, 42),
        tags={"team": "Straße"},
        shown_key=KEY,
        request_ids=("req-1", "req-2"),
        deferrals=2,
    )
    wire = (
        '{"v":1,"account":"111122223333","region":"eu-west-1","log_group":"/app/a","trigger":"key-associated",'
        '"at":1750000000000,"origin":["logwarden.events",3,42],"tags":{"team":"Straße"},'
        f'"shown_key":"{KEY}","requests":["req-1","req-2"],"deferrals":2}}'
    ).encode()
    assert full.to_bytes() == wire
    assert EnsureCommand.from_bytes(wire) == full


def test_what_is_at_its_default_is_not_written():
    assert json.loads(command().to_bytes()).keys() == BODY.keys()


def test_no_tags_and_no_key_are_told_apart_from_not_knowing():
    shown = EnsureCommand.from_bytes(command(tags={}, shown_key="").to_bytes())
    unknown = EnsureCommand.from_bytes(command().to_bytes())
    assert (shown.tags, shown.shown_key) == ({}, "")
    assert (unknown.tags, unknown.shown_key) == (None, None)


def test_a_field_that_a_later_release_adds_is_ignored():
    assert EnsureCommand.from_bytes(json.dumps(BODY | {"new": [1]}).encode()).log_group == GROUP


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"v": 2}, "v"),
        ({"v": None}, "v"),
        ({"v": "1"}, "v"),
        ({"account": "1"}, "account"),
        ({"account": None}, "account"),
        ({"account": {"a": 1}}, "account"),
        ({"region": "nowhere"}, "region"),
        ({"log_group": "a b"}, "log_group"),
        ({"log_group": "a\n"}, "log_group"),
        ({"trigger": "sneeze"}, "trigger"),
        ({"trigger": None}, "trigger"),
        ({"trigger": ["created"]}, "trigger"),
        ({"at": "now"}, "at"),
        ({"at": 1.5}, "at"),
        ({"at": True}, "at"),
        ({"at": 10**400}, "at"),
        ({"at": -(10**400)}, "at"),
        ({"origin": ["t", 1]}, "origin"),
        ({"origin": ["t", "1", 2]}, "origin"),
        ({"origin": ["\ud800", 1, 2]}, "origin"),
        ({"origin": "t/1/2"}, "origin"),
        ({"tags": ["a"]}, "tags"),
        ({"tags": {"a": 1}}, "tags"),
        ({"tags": {"a": None}}, "tags"),
        ({"tags": {"a": "\ud800"}}, "tags"),
        ({"tags": {"\udfff": "a"}}, "tags"),
        ({"shown_key": 1}, "shown_key"),
        ({"shown_key": "\ud800"}, "shown_key"),
        ({"requests": "req-1"}, "requests"),
        ({"requests": [1]}, "requests"),
        ({"requests": ["\ud800"]}, "requests"),
        ({"requests": None}, "requests"),
        ({"deferrals": "1"}, "deferrals"),
        ({"deferrals": True}, "deferrals"),
        ({"deferrals": -1}, "deferrals"),
        ({"deferrals": 2**64}, "deferrals"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], field: str):
    assert malformed(BODY | change) == field


@pytest.mark.parametrize("name", BODY)
def test_no_field_that_is_always_written_can_be_left_out(name: str):
    assert malformed({key: value for key, value in BODY.items() if key != name}) == name


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"v"',
        b"\xff\xfe",
        b"\x00" * 7,
        b"1" * 5000,
        b"[" * 100_000,
        b'{"v":NaN}x',
    ],
)
def test_bytes_that_are_no_json_object_are_malformed(value: bytes | None):
    assert malformed(value) == "value"


def test_a_command_so_large_that_what_follows_from_it_might_not_be_written_is_refused():
    assert malformed(BODY | {"requests": ["r" * 600_000]}) == "value"


@pytest.mark.parametrize("field", ["v", "account", "region", "log_group", "trigger", "at", "origin", "tags"])
def test_no_depth_of_nesting_gets_past_the_reader(field: str):
    # What the JSON parser just takes may be too deep for anything that walks it again, repr() for one.
    limit = sys.getrecursionlimit()
    for depth in (*range(limit - 150, limit + 20), 10 * limit):
        body = json.dumps(BODY | {field: "DEEP"}).replace('"DEEP"', "[" * depth + "]" * depth)
        assert malformed(body.encode()) in (field, "value")


# -- urgency


@pytest.mark.parametrize("trigger", [t for t in Trigger if t not in (Trigger.SWEEP, Trigger.VERIFY, Trigger.DELETED)])
def test_whatever_somebody_waits_for_is_urgent_until_it_is_a_retry(trigger: Trigger):
    assert command(trigger).priority is Priority.URGENT
    assert command(trigger, deferrals=1).priority is Priority.RETRY


@pytest.mark.parametrize("trigger", [Trigger.SWEEP, Trigger.VERIFY, Trigger.DELETED])
def test_what_nobody_waits_for_stays_so_when_it_is_retried(trigger: Trigger):
    assert command(trigger).priority is command(trigger, deferrals=1).priority is Priority.SWEEP


# -- two for one group


def test_two_commands_become_one_that_answers_both():
    first = command(at=200, origin=Origin("e", 0, 2), tags={"team": "a"}, requests=("r1", "r2"))
    later = command(Trigger.REQUEST, at=100, origin=Origin("e", 1, 1), requests=("r2", "r3"))
    merged = first.merged(later)
    assert merged.request_ids == ("r1", "r2", "r3")
    assert merged.accepted_at_ms == 100  # whoever asked first has waited longest
    assert merged.origin == Origin("e", 1, 1)
    assert merged.tags is None


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        ({"team": "a"}, {"team": "a"}, {"team": "a"}),
        ({"team": "a"}, {"team": "b"}, None),
        ({"team": "a"}, {}, None),
        ({"team": "a"}, None, None),
        ({}, {}, {}),
    ],
)
def test_tags_are_known_only_where_both_show_the_same(first, second, known):
    assert command(tags=first).merged(command(tags=second)).tags == known
    assert command(tags=second).merged(command(tags=first)).tags == known


def test_two_triggers_that_show_different_keys_prove_nothing():
    assert command(shown_key="").merged(command(shown_key=KEY)).shown_key is None
    assert command(shown_key=KEY).merged(command()).shown_key is None
    assert command().merged(command(shown_key=KEY)).shown_key is None
    assert command(shown_key=KEY).merged(command(shown_key=KEY)).shown_key == KEY


def test_a_creation_whose_tags_another_trigger_does_not_show_proves_nothing_any_more():
    created, taken_off = command(tags={"team": "x"}, shown_key=""), command(Trigger.KEY_DISASSOCIATED, shown_key="")
    assert created.merged(taken_off).shown_key is None
    assert taken_off.merged(created).shown_key is None


def test_what_three_triggers_show_does_not_depend_on_which_two_met_first():
    on, off, on_again = command(shown_key=KEY), command(shown_key=""), command(shown_key=KEY)
    assert on.merged(off).merged(on_again).shown_key is None
    assert on.merged(off.merged(on_again)).shown_key is None


def test_a_sweep_that_meets_a_retry_leaves_it_a_retry():
    retry, sweep = command(deferrals=3), command(Trigger.SWEEP)
    for merged in (retry.merged(sweep), sweep.merged(retry)):
        assert merged.priority is Priority.RETRY
        assert merged.deferrals == 3


@pytest.mark.parametrize("trigger", [Trigger.CREATED, Trigger.SWEEP])
def test_of_two_equally_urgent_the_one_that_came_less_far_counts(trigger: Trigger):
    fresh, old = command(trigger, deferrals=1), command(trigger, deferrals=3)
    assert fresh.merged(old).deferrals == old.merged(fresh).deferrals == 1


def test_a_new_event_that_meets_a_retry_begins_afresh():
    retry, event = command(deferrals=3), command(Trigger.KEY_DISASSOCIATED)
    for merged in (retry.merged(event), event.merged(retry)):
        assert merged.priority is Priority.URGENT
        assert merged.deferrals == 0
        assert merged.trigger is Trigger.KEY_DISASSOCIATED


def test_a_deferred_command_no_longer_says_what_the_event_showed():
    before = command(shown_key="", tags={"team": "a"}, requests=("r",), deferrals=1)
    assert before.deferred(is_strike=False) == command(requests=("r",), deferrals=2)
    assert before.deferred(is_strike=True) == command(requests=("r",), deferrals=2, strikes=1)


def test_all_commands_of_a_lane_have_one_partition_key():
    other = EnsureCommand(
        log_group=LogGroup.of("111122223333", "eu-west-1", "b"), trigger=Trigger.SWEEP, accepted_at_ms=1
    )
    assert command().partition_key == other.partition_key == b"111122223333:eu-west-1"


@pytest.mark.parametrize("deferrals", [0, 1])
@pytest.mark.parametrize("trigger", [t for t in Trigger if t is not Trigger.DELETED])
def test_who_is_joined_by_a_deletion_stays_who_they_are_and_proves_nothing_more(trigger: Trigger, deferrals: int):
    waiting, deleted = command(trigger, shown_key="", requests=("r",), deferrals=deferrals), command(Trigger.DELETED)
    for merged in (waiting.merged(deleted), deleted.merged(waiting)):
        assert (merged.trigger, merged.deferrals, merged.request_ids) == (trigger, deferrals, ("r",))
        assert merged.priority is waiting.priority
        assert merged.shown_key is None


def test_a_command_that_gathered_more_requests_than_fit_is_written_with_the_first_of_them():
    requests = tuple(f"req-{number:026d}" for number in range(16_000))
    gathered = command(requests=requests)
    assert EnsureCommand.from_bytes(gathered.to_bytes()) == command(requests=requests[:MAX_REQUEST_IDS])
