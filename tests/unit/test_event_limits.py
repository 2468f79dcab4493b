"""What one message may grow to: compressed, nested, in number. No sender makes a replica run out of memory or time."""

import base64
import gzip
import json
import random
import time
import tracemalloc
from typing import Any

import pytest

from service.domain.events import Arrival, EventParser, Parsed
from service.domain.events.fields import MAX_DEPTH
from service.domain.events.unpacking import MAX_ENTRIES, MAX_JSON_VALUES, MAX_UNPACKED_BYTES

OWN: dict[str, Any] = {
    "type": "log-group-created",
    "account": "111122223333",
    "region": "eu-west-1",
    "log_group": "/acme/orders",
}
OTHER = {"eventVersion": "1.08", "eventSource": "s3.amazonaws.com", "eventName": "GetBucketAcl"}


def parse(body: Any) -> Parsed:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return EventParser().parse(value, arrival=Arrival(0, None))


def packed(body: Any) -> str:
    return base64.b64encode(gzip.compress(json.dumps(body).encode())).decode()


def only_problem(parsed: Parsed) -> str:
    [problem] = parsed.problems
    return f"{problem.field} {problem.reason}"


def test_a_gzip_bomb_is_malformed_and_never_unpacked():
    bomb = gzip.compress(b" " * (20 * MAX_UNPACKED_BYTES))
    tracemalloc.start()
    try:
        assert only_problem(parse(bomb)) == f"value more than {MAX_UNPACKED_BYTES} bytes when unpacked"
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_UNPACKED_BYTES
    finally:
        tracemalloc.stop()


def test_a_bomb_of_many_parts_is_one_too():
    part = gzip.compress(b" " * (MAX_UNPACKED_BYTES // 10))
    assert "bytes when unpacked" in only_problem(parse(part * 11))


def test_a_bomb_in_many_entries_is_one_too():
    body = {"records": [{"data": packed([OWN, "x" * (MAX_UNPACKED_BYTES // 4)])}] * 5}
    parsed = parse(body)
    assert len(parsed.commands) == 3
    assert parsed.problems[-1].reason == f"more than {MAX_UNPACKED_BYTES} bytes when unpacked"
    assert parsed.problems[-1].field == "records[3].data"


def test_what_is_just_within_the_limit_is_read():
    padding = MAX_UNPACKED_BYTES - len(json.dumps(OWN))
    assert len(parse(gzip.compress(json.dumps(OWN).encode() + b" " * padding)).commands) == 1


def test_gzip_members_beyond_reason_are_malformed():
    assert "gzip members" in only_problem(parse(gzip.compress(b"") * 1001))


def test_a_thousand_gzip_members_are_read_in_a_moment():
    content = bytes(random.Random(1).randbytes(1000)).hex().encode()  # what does not compress follows each member
    members = [gzip.compress(json.dumps([OWN, content.decode()]).encode()) for _ in range(1000)]
    began = time.process_time()
    parsed = parse(b"".join(members))
    assert time.process_time() - began < 5
    assert len(parsed.commands) == 1000


@pytest.mark.parametrize("sep", ["", "\n", " \r\n\t"])
def test_documents_one_after_another_in_gzip_are_all_read(sep: str):
    text = sep.join(["", json.dumps(OWN), json.dumps({"Records": [OWN]}), ""])
    assert len(parse(gzip.compress(text.encode())).commands) == 2


@pytest.mark.parametrize("sep", ["\n", "\r\n", "\n\n", " \t\n "])
def test_documents_on_lines_of_their_own_are_all_read(sep: str):
    text = sep.join(["", json.dumps(OWN), json.dumps({"Records": [OWN]}), json.dumps(OTHER, indent=1), ""])
    in_base64 = {"specversion": "1.0", "data_base64": base64.b64encode(text.encode()).decode()}
    for body in (text.encode(), in_base64, {"Type": "Notification", "Message": text}):
        parsed = parse(body)
        assert (len(parsed.commands), parsed.problems) == (2, ())


@pytest.mark.parametrize("sep", ["", " ", "\t\r", ","])
def test_documents_on_one_line_are_malformed_as_a_whole(sep: str):
    parsed = parse(f"{json.dumps(OWN)}\n{json.dumps(OWN)}{sep}{json.dumps(OWN)}".encode())
    assert parsed.commands == ()
    assert "is not JSON" in only_problem(parsed)


def test_documents_without_number_are_not_read():
    began = time.process_time()
    parsed = parse(gzip.compress(b"1 " * (MAX_UNPACKED_BYTES // 2)))
    assert time.process_time() - began < 2
    assert parsed.problems[-1].reason.startswith(f"more than {MAX_ENTRIES} entries")


@pytest.mark.parametrize("end", ["{", "]", "x", '"', "\u00a0"])
def test_documents_that_end_in_garbage_are_malformed_as_a_whole(end: str):
    parsed = parse(gzip.compress((json.dumps(OWN) * 2 + end).encode()))
    assert parsed.commands == ()
    assert "is not JSON" in only_problem(parsed)


def test_more_entries_than_a_message_may_have_leave_the_first_of_them():
    parsed = parse({"Records": [OWN, *[OTHER] * MAX_ENTRIES, OWN]})
    assert len(parsed.commands) == 1
    assert f"more than {MAX_ENTRIES} entries" in only_problem(parsed)


def test_entries_of_batches_in_batches_are_counted_together():
    body = {"Records": [{"Records": [OTHER] * (MAX_ENTRIES // 10)}] * 10}
    assert "entries" in only_problem(parse(body))


def test_json_of_more_values_than_a_message_may_have_is_malformed():
    assert "JSON values" in only_problem(parse(b"[" + b"[]," * MAX_JSON_VALUES + b"0]"))


@pytest.mark.parametrize("wrap", [lambda body: {"Records": [body]}, lambda body: [body], json.dumps])
def test_envelopes_are_taken_off_to_a_depth(wrap: Any):
    body: Any = OWN
    for _ in range(MAX_DEPTH - 2 if wrap is not json.dumps else 10):
        body = wrap(body)
    assert len(parse(body).commands) == 1
    for _ in range(5):
        body = wrap(body)
    parsed = parse(body)
    assert (parsed.commands == ()) == bool(parsed.problems)
    if wrap is not json.dumps:
        assert f"more than {MAX_DEPTH} envelopes" in only_problem(parsed)


def test_confluent_prefixes_without_end_are_malformed():
    assert "envelopes" in only_problem(parse(b"\0" * 1000 + json.dumps(OWN).encode()))


@pytest.mark.parametrize("data", ["%", "A", "AAA", "\u00e9", "H4sI"])
def test_data_that_is_no_base64_or_no_gzip_is_malformed(data: str):
    assert parse({"awslogs": {"data": data}}).problems[0].field == "awslogs.data"
