"""`/v1/pause`."""

import jsonschema
import pytest

from service.domain.control import KEY, Paused
from tests.support.http import CALLER, CONTROL_TOPIC, WORK_TOPIC, side_port, token_file
from tests.support.virtual_time import EPOCH_MS, virtual_time

REASON = {"reason": "keys are being replaced"}


@virtual_time
async def test_a_pause_is_on_kafka_before_it_is_answered_and_so_is_its_end(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        nothing = await port.client.get("/v1/pause")
        paused = await port.client.put("/v1/pause", json=REASON)
        assert len(port.publisher.values(CONTROL_TOPIC)) == 1
        shown = await port.client.get("/v1/pause")
        resumed = await port.client.delete("/v1/pause")
        after = await port.client.get("/v1/pause")
        openapi = (await port.client.get("/openapi.json")).json()

    since = "2025-06-15T15:23:20.000+00:00"
    assert EPOCH_MS == 1_750_000_000_000
    assert nothing.json() == {"paused": False, "by": None, "since": None, "reason": None}
    assert paused.json() == {"paused": True, "by": CALLER, "since": since, "reason": "keys are being replaced"}
    assert shown.json() == paused.json()
    assert resumed.json() == {"paused": False, "by": CALLER, "since": since, "reason": None}
    assert after.json() == resumed.json()
    for response in (nothing, paused, shown, resumed):
        assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
        jsonschema.validate(
            response.json(), {"$ref": "#/components/schemas/PauseState", "components": openapi["components"]}
        )


@virtual_time
async def test_asking_twice_is_asking_once(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        once, twice = [await port.client.put("/v1/pause", json=REASON) for _ in range(2)]
        assert once.json() == twice.json()
        once, twice = [await port.client.delete("/v1/pause") for _ in range(2)]
        assert once.json() == twice.json()
        assert len(set(port.publisher.values(CONTROL_TOPIC))) == 2


@virtual_time
async def test_a_pause_by_another_replica_is_shown_here(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.control.apply(KEY, Paused(by="cli:bob", at_ms=0, reason="elsewhere").to_bytes())
        shown = (await port.client.get("/v1/pause")).json()

    assert (shown["paused"], shown["by"], shown["reason"]) == (True, "cli:bob", "elsewhere")


@virtual_time
async def test_a_second_pause_is_told_of_the_first_and_changes_nothing(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.control.apply(KEY, Paused(by="cli:bob", at_ms=0, reason="elsewhere").to_bytes())
        response = await port.client.put("/v1/pause", json=REASON)
        assert port.publisher.records == []
        shown = (await port.client.get("/v1/pause")).json()

    assert (response.status_code, response.json()["type"]) == (409, "/docs#paused-by-another")
    assert "cli:bob has paused the service since 1970-01-01T00:00:00+00:00: elsewhere." in response.json()["detail"]
    assert (shown["by"], shown["reason"]) == ("cli:bob", "elsewhere")


@virtual_time
async def test_the_pause_of_somebody_else_ends_by_force(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.control.apply(KEY, Paused(by="cli:bob", at_ms=0, reason="elsewhere").to_bytes())
        refused = await port.client.delete("/v1/pause")
        assert port.publisher.records == []
        resumed = await port.client.delete("/v1/pause", params={"force": "true"})

    assert (refused.status_code, refused.json()["type"]) == (409, "/docs#paused-by-another")
    assert "cli:bob has paused" in refused.json()["detail"]
    assert "?force=true" in refused.json()["detail"]
    assert (resumed.json()["paused"], resumed.json()["by"]) == (False, CALLER)


@virtual_time
async def test_requests_are_taken_while_paused(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        await port.client.put("/v1/pause", json=REASON)
        group = {"account": "111122223333", "region": "eu-west-1", "name": "/x"}
        asked = await port.client.post("/v1/requests", json={"log_groups": [group]})
        assert asked.status_code == 202
        assert len(port.publisher.values(WORK_TOPIC)) == 1
        assert (await port.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/reason"),
        ({"reason": None}, "#/reason"),
        ({"reason": " \n"}, "#/reason"),
        ({"reason": "x" * 501}, "#/reason"),
        ({"reason": "a bell \x07"}, "#/reason"),
        ({"reason": "fine", "until": "tomorrow"}, "#/until"),
        ([], "#"),
    ],
)
async def test_what_is_no_pause_is_refused_and_nothing_is_written(tmp_path, body, pointer):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.put("/v1/pause", json=body)
        assert response.status_code == 400
        assert response.headers["Content-Type"] == "application/problem+json"
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
        assert port.publisher.records == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_stranger_neither_pauses_nor_resumes_nor_looks(tmp_path, method):
    async with side_port(token_file(tmp_path), headers=()) as port:
        response = await port.client.request(method, "/v1/pause", json=REASON)
        assert response.status_code == 401
        assert port.publisher.records == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@virtual_time
async def test_kafka_that_does_not_acknowledge_is_said(tmp_path, method):
    async with side_port(token_file(tmp_path)) as port:
        await port.client.put("/v1/pause", json=REASON)
        port.publisher.stall(CONTROL_TOPIC)
        response = await port.client.request(method, "/v1/pause", json=REASON)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
        assert response.json()["type"] == "/docs#kafka-does-not-acknowledge"


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_replica_that_is_not_ready_writes_nothing(tmp_path, method):
    async with side_port(token_file(tmp_path)) as port:
        port.not_ready = "starting"
        response = await port.client.request(method, "/v1/pause", json=REASON)
        assert (response.status_code, response.json()["type"]) == (503, "/docs#not-ready")
        assert port.publisher.records == []


async def test_a_replica_that_is_behind_does_not_guess(tmp_path):
    async def behind():
        raise TimeoutError

    async with side_port(token_file(tmp_path)) as port:
        port.control._caught_up = behind
        response = await port.client.get("/v1/pause")
        assert (response.status_code, response.json()["type"]) == (503, "/docs#catching-up")


async def test_openapi_documents_every_answer(tmp_path):
    async with side_port(None) as port:
        operations = (await port.client.get("/openapi.json")).json()["paths"]["/v1/pause"]
    assert {method: operation["operationId"] for method, operation in operations.items()} == {
        "get": "is_paused",
        "put": "pause",
        "delete": "resume",
    }
    assert operations["put"]["responses"].keys() == {"200", "400", "401", "403", "409", "413", "415", "503", "default"}
    assert operations["delete"]["responses"].keys() == {"200", "401", "403", "409", "503", "default"}
