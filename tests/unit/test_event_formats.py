"""Custom formats: pointers, conditions, what a wrong format is told, and the file that has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.domain.command import Trigger
from service.domain.events import Arrival, Constant, EventFormat, EventFormatError, EventParser, Parsed, Pointer
from service.formats import EventFormatsError, load_event_formats
from service.settings import Settings
from tests.events import EXAMPLE_FORMATS

ARN = "arn:aws:logs:eu-west-1:111122223333:log-group:/acme/orders"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666"


def flat(**changes: Any) -> EventFormat:
    return EventFormat(**{"name": "flat", "account": "/a", "region": "/r", "log_group": "/g"} | changes)


def event(**changes: Any) -> dict[str, Any]:
    return {"a": "111122223333", "r": "eu-west-1", "g": "/acme/orders"} | changes


def parse(body: Any, *formats: EventFormat) -> Parsed:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EventParser(formats=formats).parse(value, arrival=Arrival(7, None))


def names_of(parsed: Parsed) -> list[str]:
    return [str(command.log_group) for command in parsed.commands]


# -- pointers


@pytest.mark.parametrize(
    ("pointer", "value", "path"),
    [
        ("/a/b", 1, "a.b"),
        ("/a~1b", 2, "a/b"),
        ("/~0", 3, "~"),
        ("/~01", 4, "~1"),
        ("/list/1/x", 5, "list[1].x"),
        ("/", 6, ""),
        ("/a/0", 7, "a[0]"),
        ("/list/01", None, "list.01"),
        ("/list/-", None, "list.-"),
        ("/list/2", None, "list[2]"),
        ("/a/b/c", None, "a.b.c"),
        ("/none", None, "none"),
    ],
)
def test_a_pointer_leads_to_a_value_as_rfc_6901_says(pointer: str, value: Any, path: str):
    body = {"a": {"b": 1, "0": 7}, "a/b": 2, "~": 3, "~1": 4, "list": [{}, {"x": 5}], "": 6}
    assert Pointer(pointer).value_in(body) == value
    assert Pointer(pointer).path == path


@pytest.mark.parametrize("pointer", ["", "a", "a/b", "#/a", "/a~", "/a~2", "/" + "x" * 600])
def test_what_is_no_pointer_is_refused(pointer: str):
    with pytest.raises(ValueError, match=r"pointer|~|longer"):
        Pointer(pointer)


# -- formats


def test_an_event_of_ones_own_becomes_a_command():
    [command] = parse(event(), flat()).commands
    assert (str(command.log_group), command.trigger) == ("111122223333:eu-west-1:/acme/orders", Trigger.CREATED)
    assert command.accepted_at_ms == 7


def test_an_arn_says_account_and_region_and_has_to_agree_with_what_else_does():
    arn = EventFormat(name="arn", log_group_arn="/g", region="/r")
    assert names_of(parse({"g": ARN + ":*"}, arn)) == ["111122223333:eu-west-1:/acme/orders"]
    [problem] = parse({"g": ARN, "r": "us-east-1"}, arn).problems
    assert (problem.field, "contradicts" in problem.reason) == ("g", True)


def test_an_envelope_around_has_to_agree_too():
    body = {"source": "aws.logs", "account": "444455556666", "region": "eu-west-1", "detail": event()}
    [problem] = parse(body, flat()).problems
    assert problem.field == "account"


@pytest.mark.parametrize("source", ["account", "region"])
def test_a_constant_stands_for_what_the_event_does_not_say(source: str):
    constant = Constant("111122223333" if source == "account" else "eu-west-1")
    body = event()
    del body[source[0]]
    assert names_of(parse(body, flat(**{source: constant}))) == ["111122223333:eu-west-1:/acme/orders"]


def test_the_key_that_a_custom_event_says_is_told_and_proves_nothing():
    made = flat(key="/k")
    [command] = parse(event(k=KEY, kms_key_id=KEY, shown_key=KEY), made).commands
    assert command.shown_key is None
    step = EventParser(formats=[made]).explain(json.dumps(event(k=KEY)).encode())[-1]
    assert step.text.endswith(f"it says that its key is '{KEY}', and is looked at all the same")
    assert names_of(parse(event(), made)) == ["111122223333:eu-west-1:/acme/orders"], "the key may be left out"


def test_a_key_that_is_no_text_is_malformed():
    [problem] = parse(event(k={"arn": KEY}), flat(key="/k")).problems
    assert (problem.field, problem.reason) == ("k", "is not a string but an object with 'arn'")


@pytest.mark.parametrize(
    ("expected", "value", "is_taken"),
    [
        ("x", "x", True), ("x", "y", False), (1, 1, True), (1, "1", False), (1, True, False),
        (True, True, True), (True, 1, False), (True, "true", False), (0, False, False), (0, 0.0, True), ("x", ["x"], False),
    ],
)  # fmt: skip
def test_a_condition_holds_for_the_same_json_value_only(expected: Any, value: Any, *, is_taken: bool):
    parsed = parse(event(kind=value), flat(when={"/kind": expected}))
    assert bool(parsed.commands) == is_taken
    assert parsed.problems == ()  # of another kind is irrelevant


def test_without_the_field_of_a_condition_an_event_is_malformed():
    assert parse(event(), flat(when={"/kind": "x"})).problems[0].field == "value"


def test_a_field_that_is_missing_is_named():
    assert parse({"g": "/acme/orders", "r": "eu-west-1"}, flat()).problems[0].field == "a"


def test_the_first_format_that_takes_an_event_reads_it():
    other = flat(name="other", log_group="/h")
    body = event(h="/acme/billing")
    assert names_of(parse(body, flat(), other)) == ["111122223333:eu-west-1:/acme/orders"]
    assert names_of(parse(body, other, flat())) == ["111122223333:eu-west-1:/acme/billing"]


def test_a_format_comes_before_the_built_in_shapes():
    body = {"body": "not JSON", **event()}
    assert names_of(parse(body, flat())) == ["111122223333:eu-west-1:/acme/orders"]


def test_built_in_shapes_are_read_as_ever():
    body = {"type": "log-group-created", "account": "111122223333", "region": "eu-west-1", "log_group": "/b"}
    assert names_of(parse([body, event()], flat())) == [
        "111122223333:eu-west-1:/b",
        "111122223333:eu-west-1:/acme/orders",
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"account": None}, "account"),
        ({"region": None}, "region"),
        ({"account": "a"}, "account"),
        ({"account": Constant("1")}, "account"),
        ({"region": Constant("nowhere")}, "region"),
        ({"log_group": None}, "log_group"),
        ({"log_group": ""}, "log_group"),
        ({"log_group_arn": "/arn"}, "log_group"),
        ({"log_group": None, "log_group_arn": "arn"}, "log_group_arn"),
        ({"tags": "tags"}, "tags"),
        ({"key": "key"}, "key"),
        ({"when": {"kind": "x"}}, "when.kind"),
        ({"when": {"/kind": None}}, "when./kind"),
        ({"when": {"/kind": 1.5}}, "when./kind"),
    ],
)
def test_a_wrong_format_is_told_with_its_field(changes: dict[str, Any], field: str):
    with pytest.raises(EventFormatError) as refused:
        flat(**changes)
    assert refused.value.field == field


# -- the first look


RECORD = b'{"eventVersion":"1.08","eventSource":"s3.amazonaws.com","eventName":"GetBucketAcl","x":%s}'


@pytest.mark.parametrize(
    ("made", "mark"),
    [
        (flat(log_group="/spec/groupName"), b"groupName"),
        (flat(when={"/kind": "Created", "/longerName": 1}), b"Created"),
        (flat(when={"/k": "größer/Straße"}), b"Stra"),
        (flat(log_group="/a~1name", when={"/n": 5}), b"name"),
        (flat(log_group="/0/ü", when={"/1": True}), None),
    ],
)
def test_a_mark_is_what_every_such_event_has_in_its_bytes(made: EventFormat, mark: bytes | None):
    assert made.mark == mark


def test_the_first_look_spares_what_may_be_a_custom_event():
    parser = EventParser(formats=[flat(log_group="/groupName")])
    assert parser.is_surely_irrelevant(RECORD % b"1")
    assert not parser.is_surely_irrelevant(RECORD % b'{"groupName":1}')
    assert not parser.is_surely_irrelevant(RECORD % b'"{\\"group\\u004eame\\":1}"')


def test_with_a_format_that_has_no_mark_everything_is_parsed():
    assert not EventParser(formats=[flat(log_group="/0")]).is_surely_irrelevant(RECORD % b"1")


# -- the file


def problems_of(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "formats.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EventFormatsError) as refused:
        load_event_formats(path)
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


GOOD = """\
version: 1
formats:
  - name: a
    log_group: /g
    account: /a
    region: {constant: eu-west-1}
"""


def test_the_example_has_each_field():
    formats = load_event_formats(EXAMPLE_FORMATS)
    assert [each.name for each in formats] == ["platform-catalogue", "provisioner", "single-account"]
    assert Settings(event_formats_file=EXAMPLE_FORMATS).event_formats_file == EXAMPLE_FORMATS
    text = EXAMPLE_FORMATS.read_text()
    for field in ("name", "when", "account", "region", "log_group", "log_group_arn", "tags", "key"):
        assert f" {field}:" in text, field


def test_json_will_do_as_well(tmp_path: Path):
    path = tmp_path / "formats.json"
    entry = {"name": "a", "log_group_arn": "/g", "when": {"/kind": 1, "/is": False}}
    path.write_text(json.dumps({"version": 1, "formats": [entry]}))
    [made] = load_event_formats(path)
    assert names_of(parse({"kind": 1, "is": False, "g": ARN}, made)) == ["111122223333:eu-west-1:/acme/orders"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("name: a", "name: a b"), "3: formats[0].name: is not up to 63"),
        (("name: a\n", "name: a\n    bogus: 1\n"), "4: formats[0].bogus: is no field here"),
        (("/g", "g"), "4: formats[0].log_group: 'g' is not a JSON pointer"),
        (("/a", "111122223333"), "5: formats[0].account: is neither a JSON pointer nor {constant: TEXT}"),
        (("/a", "{constant: 111122223333}"), "5: formats[0].account: is neither"),
        (("/a", "{constant: '1'}"), "5: formats[0].account: account '1' is not an account id"),
        (("eu-west-1", "nowhere"), "6: formats[0].region: region 'nowhere'"),
        (("    account: /a\n", ""), "3: formats[0].account: is missing"),
        (("    account: /a\n", "    account: /a\n    when: {/x: null}\n"), "6: formats[0].when./x: is to be text"),
        (("version: 1", "version: 2"), "1: version: "),
        (("formats:", "formats: []\nx:"), "2: formats: "),
        (
            ("    log_group: /g\n", "    log_group: /g\n    log_group: /h\n"),
            "5: formats[0].log_group: is here a second",
        ),
        (("version: 1", "version: ["), ""),
    ],
)
def test_a_wrong_file_is_told_with_line_field_and_reason(tmp_path: Path, change: tuple[str, str], problem: str):
    assert any(line.startswith(problem) for line in problems_of(tmp_path, GOOD.replace(*change)))


def test_two_formats_of_one_name_are_refused(tmp_path: Path):
    again = GOOD + GOOD.partition("formats:\n")[2]
    assert problems_of(tmp_path, again) == ["7: formats[1].name: a is the name of another already"]


@pytest.mark.parametrize("text", [b"\xff", b"", b"- a", b"1"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: bytes):
    assert problems_of(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(EventFormatsError, match="cannot be read"):
        load_event_formats(tmp_path / "none.yaml")
