"""Promises of the event parser for any input: it never raises, and the first look drops nothing that asks for something."""

import base64
import gzip
import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.domain.command import EnsureCommand, Origin, Trigger
from service.domain.events import MAX_REASON_LENGTH, Arrival, EventParser, Finding, Parsed
from service.domain.log_group import LogGroup
from tests.events import custom_parser

NAMES = st.sampled_from(
    [
        "CreateLogGroup", "AssociateKmsKey", "DisassociateKmsKey", "TagResource", "UntagResource", "TagLogGroup",
        "UntagLogGroup", "DeleteLogGroup", "CreateLogStream", "GetBucketAcl",
    ]
)  # fmt: skip
SOURCES = st.sampled_from(["logs.amazonaws.com"] * 3 + ["s3.amazonaws.com"] * 4 + ["aws:sqs"])
KEYS = st.sampled_from(
    [
        "eventSource", "eventName", "Records", "detail", "source", "detail-type", "type", "account", "region", "log_group",
        "recipientAccountId", "awsRegion", "requestParameters", "logGroupName", "resourceArn", "kmsKeyId", "tags",
        "userIdentity", "accountId", "eventVersion", "eventCategory", "errorCode", "Message", "Type", "body", "Body", "data",
        "data_base64", "specversion", "awslogs", "records", "payload", "schema", "messageType", "logEvents", "message", "kind",
        "spec", "name", "newLogGroup", "CloudTrailEvent", "Events", "Messages", "kinesis", "kinesisSchemaVersion", "Sns",
    ]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.text('"\\{}a', max_size=9),
    NAMES, SOURCES, KEYS,
    st.sampled_from(["aws.logs", "log-group-created", "111122223333", "eu-west-1", "/acme/orders", "null", "1.08", "{}"]),
)  # fmt: skip
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=8)
        | inner.map(json.dumps)
    ),
    max_leaves=30,
)


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """CloudTrail records that mostly matter, with a stray field or two, in any order of fields."""
    parameters: Any = draw(
        st.fixed_dictionaries(
            {"logGroupName": st.just("/acme/orders")}, optional={"tags": LEAVES, "kmsKeyId": LEAVES, "x": ANY_JSON}
        )
    )
    record = {
        "eventVersion": "1.08",
        "eventSource": draw(SOURCES),
        "eventName": draw(NAMES),
        "awsRegion": "eu-west-1",
        "recipientAccountId": "111122223333",
        "requestParameters": json.dumps(parameters) if draw(st.booleans()) else parameters,
    }
    record |= draw(st.dictionaries(st.text(max_size=8), ANY_JSON, max_size=1))
    return dict(draw(st.permutations(list(record.items()))))


OWN_EVENTS = st.fixed_dictionaries(
    {
        "type": st.just("log-group-created"),
        "account": st.just("111122223333"),
        "region": st.just("eu-west-1"),
        "log_group": st.just("/acme/orders"),
    },
    optional={"tags": st.dictionaries(KEYS, SOURCES, max_size=3)},
)


CUSTOM_EVENTS = st.sampled_from(
    [
        {
            "kind": "LogGroupCreated",
            "spec": {"account": "111122223333", "region": "eu-west-1", "name": "/a", "labels": {"x": "y"}},
        },
        {
            "source": "acme.provisioner",
            "detail": {"created": True, "arn": "arn:aws:logs:eu-west-1:111122223333:log-group:/a"},
        },
        {"newLogGroup": "/a"},
    ]
)


def _text(value: Any) -> str:
    return json.dumps(value)


def _base64(value: Any, is_packed: bool) -> str:
    content = json.dumps(value).encode()
    return base64.b64encode(gzip.compress(content, mtime=0) if is_packed else content).decode()


def enveloped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """In an envelope of any sort, with fields of its own that may mislead the first look."""
    either = inner.map(_text) | inner
    encoded = st.builds(_base64, inner, st.booleans())
    mislead = {"eventSource": SOURCES, "eventVersion": st.sampled_from(["1.0", "2.1"]), "type": SOURCES}

    def of(required: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries(required, optional=mislead)

    return st.one_of(
        of({"source": st.sampled_from(["aws.logs", "aws.logs", "aws.s3"]), "detail": either}),
        of({"Records": st.lists(either | inner.map(lambda value: {"body": json.dumps(value)}), max_size=3)}),
        of({"Type": st.just("Notification"), "Message": inner.map(_text)}),
        of({"body": inner.map(_text).map(_text)}),
        of({"CloudTrailEvent": inner.map(_text)}),
        of({"awslogs": st.fixed_dictionaries({"data": encoded})}),
        of({"messageType": st.just("DATA_MESSAGE"), "logEvents": st.lists(st.fixed_dictionaries({"message": either}))}),
        of({"specversion": st.just("1.0"), "data": either}),
        of({"specversion": st.just("1.0"), "data_base64": encoded}),
        of({"records": st.lists(st.fixed_dictionaries({"data": encoded}), max_size=2)}),
        of({"Records": encoded.map(lambda data: [{"kinesis": {"kinesisSchemaVersion": "1.0", "data": data}}])}),
        of({"schema": st.none(), "payload": either}),
        st.lists(inner, max_size=2),
        inner.map(_text),
    )


ONE = st.one_of(records(), records(), OWN_EVENTS, CUSTOM_EVENTS)
EVENTS = st.one_of(ONE, enveloped(ONE), enveloped(enveloped(ONE)), enveloped(enveloped(enveloped(ONE))))
WORDS = (
    "eventSource", "eventName", "eventVersion", "logs.amazonaws.com", "LogGroup", "KmsKey", "Resource", "log-group-created",
    "data", "awslogs", "kind", "newLogGroup", "acme",
)  # fmt: skip
BUILT_IN, CUSTOM = EventParser(), custom_parser()
PARSERS = st.sampled_from([BUILT_IN, CUSTOM])
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_specversion", "ce_type", "content-type", "Content-Type", "id", "x"]) | st.text(max_size=3),
        st.none()
        | st.binary(max_size=3)
        | st.sampled_from([b"1.0", b"application/cloudevents+json", b"application/json"]),
    ),
    max_size=3,
)


@st.composite
def spelt(draw: st.DrawFn) -> bytes:
    """An event as JSON in one of the ways to spell it."""
    text = json.dumps(
        draw(EVENTS),
        ensure_ascii=draw(st.booleans()),
        sort_keys=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", "\t:\n")])),
    )
    words = [word for word in WORDS if word in text]
    for word in draw(st.lists(st.sampled_from(words), max_size=1)) if words else ():
        text = text.replace(word, f"\\u{ord(word[0]):04x}{word[1:]}")
    before, after = draw(st.sampled_from(["", "", "", " ", "\ufeff"])), draw(st.sampled_from(["", "\n"]))
    value = f"{before}{text}{after}".encode(errors="surrogatepass")
    if draw(st.sampled_from([True, False, False])):
        between = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"", b" "]))
        value = between.join(draw(st.permutations([value, b'{"eventVersion":"1.0","eventSource":"s3.amazonaws.com"}'])))
    match draw(st.sampled_from(["plain"] * 6 + ["gzip", "confluent"])):
        case "gzip":
            return gzip.compress(value, mtime=0)
        case "confluent":
            return b"\x00\x00\x00\x00\x07" + value
        case _:
            return value


def parse(parser: EventParser, value: bytes | None, headers: Any = ()) -> Parsed:
    return parser.parse(value, headers, arrival=Arrival(0, Origin("trail", 0, 0)))


@settings(deadline=None)  # the examples are large
@given(st.none() | st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()) | spelt(), HEADERS, PARSERS)
@example(b'{"Records":' * 50_000, [], BUILT_IN)
@example(b'{"source":"aws.logs","detail":' + b'{"a":' * 900 + b"1" + b"}" * 901, [], BUILT_IN)
@example(b'{"type":"log-group-created","account":' + b"[" * 900 + b"]" * 900 + b"}", [], CUSTOM)
def test_any_value_is_parsed_to_commands_that_can_be_written_and_problems_that_can_be_told(
    value: bytes | None, headers: Any, parser: EventParser
) -> None:
    parsed = parse(parser, value, headers)
    for command in parsed.commands:
        group = command.log_group
        assert LogGroup.of(group.account, group.region, group.name) == group
        assert EnsureCommand.from_bytes(command.to_bytes()) == command
        assert command.shown_key is None or command.trigger is not Trigger.TAGGED
    for problem in parsed.problems:
        assert problem.field
        assert 0 < len(problem.reason) <= MAX_REASON_LENGTH
        assert f"{problem.field} {problem.reason}".encode(errors="backslashreplace")


@settings(max_examples=1500, deadline=None)
@given(spelt(), HEADERS, PARSERS)
def test_what_the_first_look_drops_asks_for_nothing(value: bytes, headers: Any, parser: EventParser) -> None:
    if parser.is_surely_irrelevant(value):
        assert parse(parser, value, headers).commands == ()


@settings(deadline=None)
@given(spelt(), HEADERS, PARSERS)
def test_an_explanation_finds_what_a_parse_does(value: bytes, headers: Any, parser: EventParser) -> None:
    parsed, steps = parse(parser, value, headers), parser.explain(value, headers)
    found = [step.command.log_group for step in steps if step.command]
    assert found == [command.log_group for command in parsed.commands]
    assert len(parsed.problems) == len([step for step in steps if step.finding is Finding.MALFORMED])
    assert all(step.path and step.text for step in steps)


@given(st.binary())
def test_the_first_look_never_raises(value: bytes) -> None:
    assert BUILT_IN.is_surely_irrelevant(value) in {True, False}
