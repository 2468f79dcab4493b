"""The manual trigger over HTTP: asking, waiting, looking up, and every way to be refused."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from service.domain.command import EnsureCommand
from service.domain.log_group import LogGroup
from service.domain.outcome import State
from service.domain.request import is_request_id, new_request_id
from service.domain.timestamp import timestamp
from service.http.body_limit import MAX_BODY_BYTES
from service.http.trigger import Waits
from service.ports import RecordTooLargeError
from tests.support.http import CALLER, REQUESTS_TOPIC, WORK_TOPIC, SidePort, side_port, token_file
from tests.support.virtual_time import EPOCH_MS, virtual_time

ORDERS = LogGroup.of("111122223333", "eu-west-1", "/acme/orders")
PAYMENTS = LogGroup.of("111122223333", "eu-west-1", "/acme/payments")
BODY = {
    "log_groups": [
        {"account": "111122223333", "region": "eu-west-1", "name": "/acme/orders"},
        {"arn": "arn:aws:logs:eu-west-1:111122223333:log-group:/acme/payments:*"},
    ]
}


async def ask(port: SidePort, body: Any = BODY, **headers: str) -> httpx.Response:
    return await port.client.post(
        "/v1/requests", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def pointers(response: httpx.Response) -> list[str]:
    assert response.status_code == 400
    assert response.json()["type"] == "/docs#invalid-request"
    return [error["pointer"] for error in response.json()["errors"]]


@virtual_time
async def accepted(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        return port, await ask(port)


def test_a_request_is_accepted_and_says_where_to_look(tmp_path):
    port, response = accepted(tmp_path)

    assert response.status_code == 202
    document = response.json()
    assert response.headers["Location"] == f"/v1/requests/{document['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Preference-Applied" not in response.headers
    assert (document["state"], document["caller"], document["counts"]) == ("pending", CALLER, {"pending": 2})
    commands = [EnsureCommand.from_bytes(v) for v in port.publisher.values(WORK_TOPIC)]
    assert [(c.log_group, c.request_ids) for c in commands] == [(g, (document["id"],)) for g in (ORDERS, PAYMENTS)]


@virtual_time
async def test_what_is_accepted_is_logged_with_the_callers_name(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        with capture_logs() as logs:
            response = await ask(port)

    (line,) = [entry for entry in logs if entry["event"] == "request_accepted"]
    assert (line["request_id"], line["caller"], line["log_groups"]) == (response.json()["id"], CALLER, 2)


@virtual_time
async def test_a_request_can_be_looked_up(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        location = (await ask(port)).headers["Location"]
        id_ = location.rpartition("/")[2]
        port.outcome(id_, ORDERS)
        port.outcome(id_, PAYMENTS, State.DEFERRED)
        early = await port.client.get(location)
        port.outcome(id_, PAYMENTS, State.ALREADY_SEALED)
        late = await port.client.get(location)

    assert (early.status_code, early.json()["state"], early.json()["counts"]) == (
        200,
        "pending",
        {"sealed": 1, "deferred": 1},
    )
    assert late.json()["state"] == "done"
    assert [g["log_group"] for g in late.json()["log_groups"]] == ["/acme/orders", "/acme/payments"]


@pytest.mark.parametrize("id_", ["nonsense", new_request_id(1, bytes(10))])
@virtual_time
async def test_a_request_that_does_not_exist_is_a_problem_of_its_own(tmp_path, id_):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.get(f"/v1/requests/{id_}")

    assert response.status_code == 404
    assert response.json()["type"] == "/docs#unknown-request"
    assert response.json()["instance"] == f"/v1/requests/{id_}"


# -- waiting


@virtual_time
async def test_a_caller_who_waits_gets_the_outcomes_once_all_are_there(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        loop = asyncio.get_running_loop()
        started = loop.time()
        asking = asyncio.create_task(ask(port, Prefer="wait=20"))
        await asyncio.sleep(1)
        id_ = json.loads(port.publisher.values(REQUESTS_TOPIC)[0])["id"]
        loop.call_later(1, port.outcome, id_, ORDERS)
        loop.call_later(4, port.outcome, id_, PAYMENTS)
        response = await asking

    assert loop.time() - started == 5
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=20"
    assert response.headers["Location"] == f"/v1/requests/{id_}"
    assert response.json()["state"] == "done"


@virtual_time
async def test_a_caller_who_waited_in_vain_has_a_request_all_the_same(tmp_path):
    async with side_port(token_file(tmp_path), max_wait_s=4.5) as port:
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await ask(port, Prefer="wait=3600")

    assert loop.time() - started == 4
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=4"
    assert response.json()["state"] == "pending"


@virtual_time
async def test_a_look_up_waits_too(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        loop = asyncio.get_running_loop()
        location = (await ask(port)).headers["Location"]
        started = loop.time()
        port.outcome(location.rpartition("/")[2], ORDERS)
        loop.call_later(3, port.outcome, location.rpartition("/")[2], PAYMENTS)
        response = await port.client.get(location, headers={"Prefer": "wait=10"})

    assert loop.time() - started == 3
    assert response.json()["state"] == "done"
    assert response.headers["Preference-Applied"] == "wait=10"
    assert response.headers["Vary"] == "Prefer"


@virtual_time
async def test_a_shutdown_lets_those_who_wait_go(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        loop = asyncio.get_running_loop()
        started = loop.time()
        loop.call_later(1, port.requests.close)
        response = await ask(port, Prefer="wait=30")

    assert loop.time() - started == 1
    assert response.status_code == 202


@virtual_time
async def test_what_is_deferred_is_not_done(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        first = await ask(port, Idempotency_Key="deploy-42")
        port.outcome(first.json()["id"], ORDERS)
        port.outcome(first.json()["id"], PAYMENTS, State.DEFERRED)
        response = await ask(port, Idempotency_Key="deploy-42")

    assert (response.status_code, response.json()["state"]) == (202, "pending")
    assert response.json()["counts"] == {"sealed": 1, "deferred": 1}


# -- idempotency


@virtual_time
async def test_a_repeat_with_its_idempotency_key_is_the_same_request(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        first = await ask(port, Idempotency_Key="deploy-42")
        again = await ask(port, Idempotency_Key="deploy-42")
        other = await ask(port, {"log_groups": BODY["log_groups"][:1]}, Idempotency_Key="deploy-42")
        port.outcome(first.json()["id"], ORDERS)
        port.outcome(first.json()["id"], PAYMENTS)
        done = await ask(port, Idempotency_Key="deploy-42")

    assert (first.status_code, again.status_code, done.status_code) == (202, 202, 200)
    assert again.json() == first.json()
    assert done.json()["id"] == first.json()["id"]
    assert other.status_code == 422
    assert other.json()["type"] == "/docs#idempotency-key-reused"
    assert len(port.publisher.values(REQUESTS_TOPIC)) == 1


@virtual_time
async def test_an_idempotency_key_has_an_end(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        response = await ask(port, Idempotency_Key="k" * 256)

    assert response.status_code == 400
    assert "Idempotency-Key" in response.json()["errors"][0]["detail"]


# -- bodies that cannot be


ORDERS_BY_NAME = BODY["log_groups"][0]
EITHER_OR = ["#/log_groups/0"]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (None, ["#"]),
        ([], ["#"]),
        ({}, ["#/log_groups"]),
        ({"log_groups": "all"}, ["#/log_groups"]),
        ({"log_groups": []}, ["#/log_groups"]),
        ({"log_groups": [ORDERS_BY_NAME] * 4}, ["#/log_groups"]),
        ({"log_groups": [ORDERS_BY_NAME] * 2000}, ["#/log_groups"]),
        ({"log_groups": [ORDERS_BY_NAME], "dry_run": True}, ["#/dry_run"]),
        ({"log_groups": [ORDERS_BY_NAME], "a/b~c d": True}, ["#/a~1b~0c%20d"]),
        ({"log_groups": [7]}, ["#/log_groups/0"]),
        ({"log_groups": [{}]}, EITHER_OR),
        ({"log_groups": [{"arn": None}]}, EITHER_OR),
        ({"log_groups": [{**ORDERS_BY_NAME, "arn": "arn:x"}]}, EITHER_OR),
        ({"log_groups": [{"arn": "arn:x", "name": "/acme"}]}, EITHER_OR),
        ({"log_groups": [{"arn": "arn:aws:s3:::acme"}]}, ["#/log_groups/0/arn"]),
        ({"log_groups": [{"arn": 7}]}, ["#/log_groups/0/arn"]),
        ({"log_groups": [{**ORDERS_BY_NAME, "key": "arn:x"}]}, ["#/log_groups/0/key"]),
        ({"log_groups": [{**ORDERS_BY_NAME, "name": None}]}, EITHER_OR),
        ({"log_groups": [{**ORDERS_BY_NAME, "name": "a b"}]}, ["#/log_groups/0/name"]),
        ({"log_groups": [{**ORDERS_BY_NAME, "account": 111122223333}]}, ["#/log_groups/0/account"]),
        (
            {"log_groups": [{**ORDERS_BY_NAME, "region": "mars"}, ORDERS_BY_NAME, {**ORDERS_BY_NAME, "account": "1"}]},
            ["#/log_groups/0/region", "#/log_groups/2/account"],
        ),
    ],
)
@virtual_time
async def test_a_body_that_is_not_valid_is_pointed_into_and_nothing_is_done(tmp_path, body, wrong):
    async with side_port(token_file(tmp_path), max_groups=3) as port:
        response = await ask(port, body)

    assert pointers(response) == wrong
    assert port.publisher.records == []


@virtual_time
async def test_a_long_list_of_errors_is_cut_and_says_so(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        response = await ask(port, {"log_groups": [{"arn": "arn:x"}] * 100})

    assert len(pointers(response)) == 20
    assert "80 more errors" in response.json()["detail"]


@pytest.mark.parametrize(
    "content", [b"{", b'{"log_groups": [', b"\xff", b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"]
)
@virtual_time
async def test_what_is_not_json_is_a_bad_request(tmp_path, content):
    async with side_port(token_file(tmp_path)) as port:
        headers = {"Content-Type": "application/json"}
        response = await port.client.post("/v1/requests", content=content, headers=headers)

    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
@virtual_time
async def test_a_body_has_to_be_declared_as_json(tmp_path, content_type):
    async with side_port(token_file(tmp_path)) as port:
        headers = {} if content_type is None else {"Content-Type": content_type}
        response = await port.client.post("/v1/requests", content=json.dumps(BODY), headers=headers)

    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


@virtual_time
async def test_no_body_at_all_is_a_bad_request(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        assert pointers(await port.client.post("/v1/requests")) == ["#"]


# -- size


async def chunks(total: int, read: list[int]):
    for _ in range(total // 65536 + 1):
        read.append(65536)
        yield b" " * 65536


@virtual_time
async def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read(tmp_path):
    read: list[int] = []
    async with side_port(token_file(tmp_path)) as port:
        headers = {"Content-Type": "application/json", "Content-Length": str(MAX_BODY_BYTES + 1)}
        response = await port.client.post("/v1/requests", content=chunks(MAX_BODY_BYTES, read), headers=headers)

    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Connection"] == "close"
    assert read == []


@virtual_time
async def test_a_body_that_turns_out_too_large_is_refused_where_it_does(tmp_path):
    read: list[int] = []
    async with side_port(token_file(tmp_path)) as port:
        headers = {"Content-Type": "application/json"}
        response = await port.client.post("/v1/requests", content=chunks(3 * MAX_BODY_BYTES, read), headers=headers)

    assert response.status_code == 413
    assert response.json()["type"] == "/docs#too-large"
    assert MAX_BODY_BYTES < sum(read) <= MAX_BODY_BYTES + 65536


@virtual_time
async def test_the_largest_request_fits_in_a_body(tmp_path):
    name = {"account": "111122223333", "region": "ap-southeast-2"}
    body = {"log_groups": [{**name, "name": f"{n:0512}"} for n in range(1500)]}
    async with side_port(token_file(tmp_path), max_groups=1500) as port:
        response = await ask(port, body)

    assert response.status_code == 202


# -- what keeps us from answering


@virtual_time
async def test_a_replica_that_starts_or_stops_takes_no_request_but_answers_for_those_it_knows(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        location = (await ask(port)).headers["Location"]
        port.publisher.records.clear()
        port.not_ready = "stopping"
        refused, found = await ask(port), await port.client.get(location)

    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["type"] == "/docs#not-ready"
    assert refused.json()["detail"].startswith("stopping.")
    assert port.publisher.records == []
    assert found.status_code == 200


@virtual_time
async def test_while_kafka_does_not_acknowledge_the_caller_gets_the_id_of_what_may_still_happen(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.publisher.stall(WORK_TOPIC)
        response = await ask(port)
        found = await port.client.get(response.json()["instance"])

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "10"
    assert response.json()["type"] == "/docs#kafka-does-not-acknowledge"
    id_ = response.json()["instance"].removeprefix("/v1/requests/")
    assert is_request_id(id_)
    assert id_ in response.json()["detail"]
    assert "may still be carried out" in response.json()["detail"]
    assert found.status_code == 404, "not all of it is written: nobody waits for it"


@virtual_time
async def test_a_request_that_the_broker_finds_too_large_is_too_large(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.publisher.failure = RecordTooLargeError("requests")
        assert (await ask(port)).status_code == 413


@virtual_time
async def test_a_replica_that_is_still_reading_does_not_say_that_a_request_does_not_exist(tmp_path, monkeypatch):
    async with side_port(token_file(tmp_path)) as port:
        monkeypatch.setattr(port.requests, "_caught_up", asyncio.Event().wait)
        response = await port.client.get(f"/v1/requests/{new_request_id(1, bytes(10))}")

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert response.json()["type"] == "/docs#catching-up"


async def test_the_schema_says_the_limit_that_is_in_force(tmp_path):
    async with side_port(token_file(tmp_path), max_groups=3) as port:
        schemas = (await port.client.get("/openapi.json")).json()["components"]["schemas"]
        refused = await ask(port, {"log_groups": [ORDERS_BY_NAME] * 4})
    assert schemas["NewRequest"]["properties"]["log_groups"]["maxItems"] == 3
    assert "at most 3 items" in refused.json()["errors"][0]["detail"]


async def test_a_log_group_that_has_to_wait_says_why_until_there_is_an_outcome(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.waits[ORDERS.lane] = Waits(
            "role-not-assumable", "AccessDenied: sts:AssumeRole", "Make the role.", EPOCH_MS
        )
        asked = (await ask(port)).json()
        port.outcome(asked["id"], ORDERS)
        done, waits = (await port.client.get(f"/v1/requests/{asked['id']}")).json()["log_groups"]
        del port.waits[ORDERS.lane]
        _, pending = (await port.client.get(f"/v1/requests/{asked['id']}")).json()["log_groups"]

    why = {
        "class": "role-not-assumable",
        "detail": "AccessDenied: sts:AssumeRole",
        "hint": "Make the role.",
        "since": timestamp(EPOCH_MS),
    }
    assert [(group["state"], group["waits"]) for group in asked["log_groups"]] == [("pending", why)] * 2
    assert (done["state"], "waits" in done) == ("sealed", False)
    assert (waits["state"], waits["waits"]) == ("pending", why)
    assert "waits" not in pending
