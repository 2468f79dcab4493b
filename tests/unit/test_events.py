"""How event fields are read, what is refused and how that is told. Whole events of every shape are in tests/events."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.domain.command import MAX_CALLER_LENGTH, EnsureCommand, Origin, Trigger
from service.domain.events import MAX_REASON_LENGTH, Arrival, EventParser, Parsed, Problem
from service.domain.log_group import LogGroup

EVENTS = Path(__file__).parents[1] / "events"
ORIGIN = Origin("trail", 3, 4711)
AT_MS = 1_772_442_847_000
ARRIVAL = Arrival(AT_MS, ORIGIN)
PARSER = EventParser()
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666"


def ensure(
    name: str,
    trigger: Trigger = Trigger.CREATED,
    *,
    region: str = "eu-west-1",
    tags: dict[str, str] | None = None,
    shown_key: str | None = None,
    caller: str | None = None,
) -> EnsureCommand:
    return EnsureCommand(
        log_group=LogGroup.of("111122223333", region, name),
        trigger=trigger,
        accepted_at_ms=AT_MS,
        origin=ORIGIN,
        tags=tags,
        shown_key=shown_key,
        caller=caller,
    )


ORDERS_CREATED = ensure("/acme/orders", shown_key="")


def parse(body: Any) -> Parsed:
    value = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    return PARSER.parse(value, arrival=ARRIVAL)


def fixture(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_bytes())


def created(**changes: Any) -> dict[str, Any]:
    """The record of a CreateLogGroup call with some fields changed; `...` takes one away."""
    record = {**fixture("record_created_by_lambda"), "requestParameters": {"logGroupName": "/acme/orders"}, **changes}
    return {name: value for name, value in record.items() if value is not ...}


def in_eventbridge(detail: Any, **changes: Any) -> dict[str, Any]:
    event = {**fixture("eventbridge_created_with_key_and_tags"), "detail": detail, **changes}
    return {name: value for name, value in event.items() if value is not ...}


def problem_of(body: Any) -> Problem:
    parsed = parse(body)
    assert parsed.commands == ()
    [problem] = parsed.problems
    return problem


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"detail": ' + b"9" * 5_000 + b"}", "is not JSON"),
        (b"null", "null"),
        (b"NaN", "float"),
        (b"[]", "an empty list"),
        (b"\x00\x00\x00\x00\x07", "is not JSON"),
        (b"\x1f\x8b\x08", "cut off"),
        (b"{}", "an empty object"),
        (b'"' + b'\\"' * 10 + b'"', "is not JSON"),
        (b'{"Records": {}}', "'Records'"),
        (b'{"eventSource": 1, "eventName": "CreateLogGroup"}', "'eventSource'"),
        (b'{"\\ud800": 1}', r"'\ud800'"),
    ],
)
def test_a_value_of_no_known_shape_is_malformed(value: bytes | None, reason: str) -> None:
    problem = problem_of(value)
    assert problem.field == "value"
    assert reason in problem.reason


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(created()).encode()).commands == (ORDERS_CREATED,)


def test_an_event_encoded_twice_is_read() -> None:
    assert parse(json.dumps(json.dumps(created()))).commands == (ORDERS_CREATED,)


def test_envelopes_nested_beyond_reason_are_malformed() -> None:
    body: Any = created()
    for _ in range(200):
        body = {"Records": [body]}
    assert "envelopes" in problem_of(body).reason


def test_the_last_of_duplicate_keys_counts() -> None:
    value = json.dumps(created()).replace('"eventName"', '"eventName": "DeleteLogGroup", "eventName"')
    assert parse(value.encode()).commands == (ORDERS_CREATED,)


def test_nesting_just_within_what_json_can_read_does_no_harm() -> None:
    event = json.dumps({**fixture("own_event"), "account": "?"})
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        assert problem_of(event.replace('"?"', "[" * depth + "]" * depth).encode()).field in {"account", "value"}


# -- account and Region


def test_the_recipients_account_is_preferred_to_the_callers() -> None:
    record = created(userIdentity={"accountId": "444455556666"})
    assert parse(record).commands == (ORDERS_CREATED,)


def test_the_envelopes_account_is_preferred_to_the_callers() -> None:
    record = created(recipientAccountId=..., userIdentity={"accountId": "444455556666"})
    assert parse(in_eventbridge(record)).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize("caller", [None, "null", {}, {"accountId": None}])
def test_a_record_that_states_no_account_is_malformed(caller: Any) -> None:
    problem = problem_of(created(recipientAccountId=..., userIdentity=caller))
    assert problem == Problem("recipientAccountId", "is missing")


def test_the_envelopes_region_will_do() -> None:
    assert parse(in_eventbridge(created(awsRegion=...))).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("region", in_eventbridge(created(awsRegion="us-east-1"))),
        ("account", in_eventbridge(created(), account="444455556666")),
        (
            "requestParameters.resourceArn",
            created(
                eventName="TagResource",
                requestParameters={"resourceArn": "arn:aws:logs:us-east-1:111122223333:log-group:/acme/orders"},
            ),
        ),
        (
            "requestParameters.resourceIdentifier",
            created(
                eventName="AssociateKmsKey",
                requestParameters={
                    "logGroupName": "/acme/billing",
                    "resourceIdentifier": "arn:aws:logs:eu-west-1:111122223333:log-group:/acme/orders",
                },
            ),
        ),
    ],
)
def test_fields_that_contradict_each_other_are_malformed(field: str, body: Any) -> None:
    problem = problem_of(body)
    assert problem.field == field
    assert "contradicts" in problem.reason


@pytest.mark.parametrize("value", [111122223333, "11112222333", "\uff11" * 12, ["111122223333"], {"a": [[]]}])
def test_an_account_that_is_no_account_id_is_malformed(value: Any) -> None:
    assert problem_of(created(recipientAccountId=value)).field == "recipientAccountId"


@pytest.mark.parametrize("value", ["eu_west_1", "", 1, "eu-west-1\n"])
def test_a_region_that_is_no_region_is_malformed(value: Any) -> None:
    assert problem_of(created(awsRegion=value)).field == "awsRegion"


# -- the call


@pytest.mark.parametrize("code", [None, "", "null"])
def test_an_empty_error_code_is_no_error(code: str | None) -> None:
    assert parse(created(errorCode=code)).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize("name", ["createLogGroup", "CreateLogGroups", "CreateLogStream", ""])
def test_names_of_calls_match_exactly(name: str) -> None:
    assert parse(created(eventName=name)) == Parsed()


def test_sources_match_exactly() -> None:
    assert parse(created(eventSource="logs.amazonaws.com.example")) == Parsed()


@pytest.mark.parametrize("version", ["1.04", "1.11", "1.99", None, ...])
def test_any_minor_version_of_a_record_is_read(version: Any) -> None:
    assert parse(created(eventVersion=version)).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize("version", ["2.0", "11.0", "", 1, []])
def test_another_major_version_of_a_record_is_malformed(version: Any) -> None:
    assert problem_of(created(eventVersion=version)).field == "eventVersion"


@pytest.mark.parametrize("category", [[], {}, 5, "Management", ...])
def test_a_strange_category_does_no_harm(category: Any) -> None:
    assert parse(created(eventCategory=category)).commands == (ORDERS_CREATED,)


def test_parameters_as_a_string_are_read() -> None:
    assert parse(created(requestParameters='{"logGroupName": "/acme/orders"}')).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize("parameters", [None, ..., "null", "/acme/orders", [], "[" * 100_000])
def test_a_call_without_parameters_is_malformed(parameters: Any) -> None:
    assert problem_of(created(requestParameters=parameters)).field == "requestParameters"


@pytest.mark.parametrize("name", ["", "a" * 513, "a b", "a\n", 5, None, ["/acme/orders"], "\ud800", "ümlaut"])
def test_a_name_that_no_log_group_has_is_malformed(name: Any) -> None:
    assert problem_of(created(requestParameters={"logGroupName": name})).field == "requestParameters.logGroupName"


@pytest.mark.parametrize("arn", ["/acme/orders", "arn:aws:s3:::bucket", "arn:aws:logs:eu-west-1:1:log-group:/x", 5, {}])
def test_an_arn_that_is_none_is_malformed(arn: Any) -> None:
    record = created(eventName="TagResource", requestParameters={"resourceArn": arn})
    assert problem_of(record).field == "requestParameters.resourceArn"


def test_a_path_leads_through_the_envelope() -> None:
    body = in_eventbridge(json.dumps(created(requestParameters={})))
    assert problem_of(body).field == "detail.requestParameters.logGroupName"


# -- key and tags


@pytest.mark.parametrize("key", ["0a1b2c3d-1111-2222-3333-444455556666", "alias/logs", f"{KEY}x" * 10, "\ud800"])
def test_a_key_that_is_no_arn_proves_nothing(key: str) -> None:
    record = created(requestParameters={"logGroupName": "/acme/orders", "kmsKeyId": key})
    assert parse(record).commands == (ensure("/acme/orders", shown_key=None),)


@pytest.mark.parametrize("key", [5, [], {"Ref": "Key"}, True])
def test_a_key_that_is_no_string_is_malformed(key: Any) -> None:
    record = created(requestParameters={"logGroupName": "/acme/orders", "kmsKeyId": key})
    assert problem_of(record).field == "requestParameters.kmsKeyId"


@pytest.mark.parametrize(
    "tags",
    [
        "tenant=acme",
        [{"key": "tenant", "value": "acme"}],
        {"tenant": None},
        {"tenant": ["acme"]},
        {"tenant": "\udfff"},
        {"\ud800": "acme"},
        {"tenant": "a" * 257},
        {"t" * 129: "acme"},
        {f"tag{i}": "" for i in range(51)},
    ],
)
def test_tags_that_no_log_group_has_are_malformed(tags: Any) -> None:
    record = created(requestParameters={"logGroupName": "/acme/orders", "tags": tags})
    assert problem_of(record).field == "requestParameters.tags"


def test_tags_of_any_script_are_kept() -> None:
    record = created(requestParameters={"logGroupName": "/acme/orders", "tags": {"Größe": "😀"}})
    [command] = parse(record).commands
    assert EnsureCommand.from_bytes(command.to_bytes()).tags == {"Größe": "😀"}


# -- problems


def test_one_bad_entry_leaves_the_others_alone() -> None:
    body = {"Records": [None, created(), "{", {"Records": [created(awsRegion=...)]}, created()]}
    parsed = parse(body)
    assert parsed.commands == (ORDERS_CREATED, ORDERS_CREATED)
    assert [problem.field for problem in parsed.problems] == [
        "Records[0]",
        "Records[2]",
        "Records[3].Records[0].awsRegion",
    ]


@pytest.mark.parametrize(
    "body",
    [
        created(recipientAccountId="9" * 900_000),
        created(requestParameters={"logGroupName": "\x00" * 900_000}),
        created(requestParameters={"logGroupName": "/a", "tags": {"k" * 900_000: 1}}),
        {"k" * 900_000: 1, "b" * 900_000: 2},
    ],
)
def test_a_reason_is_short_whatever_the_value(body: Any) -> None:
    assert len(problem_of(body).reason) <= MAX_REASON_LENGTH


def test_a_reason_shows_no_value_of_an_unknown_shape() -> None:
    assert "s3cr3t" not in problem_of({"password": "s3cr3t"}).reason


def test_all_problems_are_told_the_first_few_in_full():
    parsed = parse({"Records": [created(awsRegion=str(number)) for number in range(7)]})
    assert parsed.reason.startswith("7 problems: Records[0].awsRegion: region '0' is not a Region name")
    assert "; Records[4].awsRegion: " in parsed.reason
    assert parsed.reason.endswith("; and 2 more")
    assert "Records[5]" not in parsed.reason


def test_a_single_problem_is_told_as_it_is():
    assert parse({"Records": [created(awsRegion=...)]}).reason == "is missing"
    assert parse({"Records": []}).reason == ""


# -- trust


def test_only_a_cloudtrail_record_proves_a_key():
    named = {**fixture("own_event"), "kms_key_id": KEY}
    assert parse(named).commands[0].shown_key is None
    assert parse(created(requestParameters={"logGroupName": "/a", "kmsKeyId": KEY})).commands[0].shown_key == KEY


@pytest.mark.parametrize("name", ["TagResource", "TagLogGroup", "DeleteLogGroup"])
def test_a_call_that_sets_no_key_proves_none(name: str):
    [command] = parse(created(eventName=name, requestParameters={"logGroupName": "/a", "kmsKeyId": KEY})).commands
    assert command.shown_key is None


# -- who changed the key


def caller_of(**changes: Any) -> str | None:
    [command] = parse(created(eventName="DisassociateKmsKey", **changes)).commands
    return command.caller


@pytest.mark.parametrize(
    ("changes", "caller"),
    [
        ({"userIdentity": {"arn": "arn:aws:iam::111122223333:user/ada"}, "userAgent": "Mozilla"}, "arn:aws:iam::111122223333:user/ada (Mozilla)"),
        ({"userIdentity": {"principalId": "AIDA"}, "userAgent": ..., "sourceIPAddress": "203.0.113.10"}, "AIDA (203.0.113.10)"),
        ({"userIdentity": '{"arn": "arn:ada"}', "userAgent": ..., "sourceIPAddress": ...}, "arn:ada"),
        ({"userIdentity": None, "userAgent": "terraform"}, "somebody (terraform)"),
        ({"userIdentity": "[" * 100_000, "userAgent": 5, "sourceIPAddress": []}, None),
        ({"userIdentity": {"arn": {"a": 1}, "principalId": ""}, "userAgent": "", "sourceIPAddress": None}, None),
        ({"userIdentity": {"arn": "a\n\x1b[31m\ud800"}, "userAgent": "b"}, "a??[31m? (b)"),
    ],
)  # fmt: skip
def test_a_command_names_who_changed_the_key_however_odd_the_record(changes: dict[str, Any], caller: str | None):
    assert caller_of(**changes) == caller


def test_a_caller_is_short_whatever_the_record_says():
    caller = caller_of(userIdentity={"arn": "a" * 900_000})
    assert caller == "a" * MAX_CALLER_LENGTH


def test_who_created_a_group_is_not_kept():
    assert parse(created()).commands[0].caller is None


# -- headers


@pytest.mark.parametrize("name", ["ce_specversion", "CE_Type", "ce-specversion"])
def test_a_cloudevent_without_data_is_a_tombstone(name: str):
    assert PARSER.parse(None, [(name, b"1.0")], arrival=ARRIVAL) == Parsed()


def test_headers_that_are_null_or_strange_do_no_harm():
    value = json.dumps(created()).encode()
    headers: list[tuple[str, bytes | None]] = [
        ("content-type", None),
        ("ce_type", None),
        ("", b"\xff"),
        ("ce_type", b""),
    ]
    assert PARSER.parse(value, headers, arrival=ARRIVAL).commands == (ORDERS_CREATED,)


def test_a_content_type_that_names_a_cloudevent_makes_it_one():
    body = json.dumps({"data": created()}).encode()
    headers = [("Content-Type", b" Application/CloudEvents+json; charset=utf-8")]
    assert PARSER.parse(body, headers, arrival=ARRIVAL).commands == (ORDERS_CREATED,)
    assert problem_of(body).field == "value"


# -- the first look


def compact(name: str) -> bytes:
    return json.dumps(fixture(name), separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "name", ["record_of_s3", "record_of_iam_with_the_word_in_its_text", "record_describe_log_groups"]
)
def test_the_first_look_drops_whole_records_of_no_interest(name: str) -> None:
    assert PARSER.is_surely_irrelevant(compact(name))
    assert PARSER.is_surely_irrelevant((EVENTS / f"{name}.json").read_bytes())
    assert PARSER.is_surely_irrelevant(json.dumps(in_eventbridge(fixture(name))).encode())


@pytest.mark.parametrize(
    "name", ["record_of_s3", "record_of_iam_with_the_word_in_its_text", "record_describe_log_groups"]
)
def test_a_record_cut_off_but_at_the_end_of_an_object_reaches_the_parser(name: str) -> None:
    value = compact(name)
    assert not [
        end for end in range(len(value)) if PARSER.is_surely_irrelevant(value[:end]) and value[:end][-1:] != b"}"
    ]


def test_a_name_spelt_with_escapes_reaches_the_parser() -> None:
    value = json.dumps(created()).replace("CreateLogGroup", "CreateLog\\u0047roup").encode()
    assert not PARSER.is_surely_irrelevant(value)
    assert parse(value).commands == (ORDERS_CREATED,)


def test_a_source_spelt_with_escapes_reaches_the_parser() -> None:
    value = json.dumps({"x": {"eventSource": "s3.amazonaws.com"}, **created()})
    value = value.replace('"eventSource": "logs', '"event\\u0053ource": "logs')
    assert not PARSER.is_surely_irrelevant(value.encode())
    assert parse(value.encode()).commands == (ORDERS_CREATED,)


def test_a_record_inside_a_string_reaches_the_parser() -> None:
    value = json.dumps(in_eventbridge(json.dumps(created()), extra={"eventSource": "s3.amazonaws.com"})).encode()
    assert not PARSER.is_surely_irrelevant(value)
    assert parse(value).commands == (ORDERS_CREATED,)


@pytest.mark.parametrize(("before", "after"), [(b"\xef\xbb\xbf", b""), (b"[", b"]"), (b"", b"\x00")])
def test_bytes_around_a_record_take_it_to_the_parser(before: bytes, after: bytes) -> None:
    assert not PARSER.is_surely_irrelevant(before + compact("record_of_s3") + after)


def test_records_after_the_confluent_prefix_are_dropped_too() -> None:
    assert PARSER.is_surely_irrelevant(b"\x00\x00\x00\x00\x07" + compact("record_of_s3"))


def test_lines_of_records_are_dropped_too() -> None:
    line = compact("record_of_s3") + b"\n"
    assert PARSER.is_surely_irrelevant(line)
    assert PARSER.is_surely_irrelevant(line * 3)
    assert not PARSER.is_surely_irrelevant(line + b"x\n" + compact("record_created_version_1_11"))


@pytest.mark.parametrize("name", ["s3_notification", "unknown_shape", "own_event_without_region", "not_json"])
def test_what_does_not_look_like_cloudtrail_reaches_the_parser(name: str) -> None:
    [path] = EVENTS.glob(f"{name}.*")
    assert not PARSER.is_surely_irrelevant(path.read_bytes())


@pytest.mark.parametrize(
    "name", ["sqs_batch_of_lambda", "sns_in_sqs_batch_of_lambda", "subscription", "lookup_events_page"]
)
def test_batches_of_records_of_no_interest_are_dropped(name: str) -> None:
    value = (EVENTS / f"{name}.json").read_bytes()
    assert not PARSER.is_surely_irrelevant(value)
    assert PARSER.is_surely_irrelevant(value.replace(b"CreateLogGroup", b"CreateLogStream"))


@pytest.mark.parametrize(
    "value",
    [
        b'{"eventVersion":"1.1","eventName":"' + b"nrt" * 300_000 + b'logs.amazonaws.com"}',
        b'{"x":"eventSource' + b"nrt" * 300_000 + b'"}',
        b'{"x":"eventSource\\"' + b"a.-" * 300_000 + b'"}',
        b'{"x":"' + b"eventSource" * 100_000 + b'"}',
        b'{"x":"' + b"eventName logs.amazonaws.com" * 40_000 + b'"}',
        b'{"x":"' + b"log" * 300_000 + b'"}',
    ],
)
def test_the_first_look_takes_milliseconds_whatever_the_bytes(value: bytes) -> None:
    began = time.process_time()
    PARSER.is_surely_irrelevant(value)
    assert time.process_time() - began < 0.5


def test_an_own_event_among_records_reaches_the_parser() -> None:
    value = json.dumps({"Records": [fixture("record_of_s3"), fixture("own_event")]}).encode()
    assert not PARSER.is_surely_irrelevant(value)


def test_an_own_event_with_a_version_of_its_own_is_one_wherever_that_stands() -> None:
    value = json.dumps({"eventVersion": "1.0", **fixture("own_event")}).encode()
    assert not PARSER.is_surely_irrelevant(value)
    assert len(parse(value).commands) == 1


def test_what_begins_as_a_record_of_cloudtrail_is_no_own_event() -> None:
    value = json.dumps({"eventVersion": "1.11", "userIdentity": {}, **fixture("own_event")}).encode()
    assert PARSER.is_surely_irrelevant(value)
    assert not parse(value).commands
    assert parse(value).problems


def test_a_record_is_known_with_and_without_spaces_and_not_by_what_is_in_it() -> None:
    for value in (b'{"eventVersion":"1.09","userIdentity":{}}', b'{"eventVersion": "1.9", "userIdentity": {}}'):
        assert PARSER.is_surely_irrelevant(value)
    assert not PARSER.is_surely_irrelevant(b'{"eventVersion":{"userIdentity":{}}}')
    assert not PARSER.is_surely_irrelevant(b'{"eventVersion":"2.0","userIdentity":{}}')
