"""Promises of the event parser for any input: it never raises, and the first look drops nothing that asks for something."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.domain.command import EnsureCommand, Origin
from service.domain.events import MAX_REASON_LENGTH, Parsed, is_surely_irrelevant, parse_event
from service.domain.log_group import LogGroup

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
        "userIdentity", "accountId", "eventVersion", "eventCategory", "errorCode",
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


def enveloped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """In EventBridge's envelope or a CloudTrail file, with a source of its own that may mislead the first look."""
    mislead = {"eventSource": SOURCES}
    detail = inner.map(json.dumps) | inner
    event = {"source": st.sampled_from(["aws.logs", "aws.logs", "aws.s3"]), "detail": detail}
    return st.one_of(
        st.fixed_dictionaries(event, optional=mislead),
        st.fixed_dictionaries({"Records": st.lists(inner, max_size=3)}, optional=mislead),
    )


ONE = st.one_of(records(), records(), OWN_EVENTS)
EVENTS = st.one_of(records(), enveloped(ONE), enveloped(enveloped(ONE)))


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
    words = [word for word in ("eventSource", "logs.amazonaws.com", "LogGroup", "KmsKey", "Resource") if word in text]
    for word in draw(st.lists(st.sampled_from(words), max_size=1)) if words else ():
        text = text.replace(word, f"\\u{ord(word[0]):04x}{word[1:]}")
    return (draw(st.sampled_from(["", "", "", " "])) + text + draw(st.sampled_from(["", "\n"]))).encode(
        errors="surrogatepass"
    )


def parse(value: bytes | None) -> Parsed:
    return parse_event(value, accepted_at_ms=0, origin=Origin("trail", 0, 0))


@settings(deadline=None)  # the examples are large
@given(st.none() | st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()) | spelt())
@example(b'{"Records":' * 50_000)
@example(b'{"source":"aws.logs","detail":' + b'{"a":' * 900 + b"1" + b"}" * 901)
@example(b'{"type":"log-group-created","account":' + b"[" * 900 + b"]" * 900 + b"}")
def test_any_value_is_parsed_to_commands_that_can_be_written_and_problems_that_can_be_told(value: bytes | None) -> None:
    parsed = parse(value)
    for command in parsed.commands:
        group = command.log_group
        assert LogGroup.of(group.account, group.region, group.name) == group
        assert EnsureCommand.from_bytes(command.to_bytes()) == command
    for problem in parsed.problems:
        assert problem.field
        assert 0 < len(problem.reason) <= MAX_REASON_LENGTH
        assert f"{problem.field} {problem.reason}".encode()


@settings(max_examples=2000, deadline=None)
@given(spelt())
def test_what_the_first_look_drops_asks_for_nothing(value: bytes) -> None:
    if is_surely_irrelevant(value):
        assert parse(value).commands == ()


@given(st.binary())
def test_the_first_look_never_raises(value: bytes) -> None:
    assert is_surely_irrelevant(value) in {True, False}
