"""`POST /v1/events`: whatever ingest reads from Kafka, answered once Kafka has what it asks for."""

import json

import pytest

from service.domain.command import EnsureCommand, Trigger
from tests.support.http import DEAD_LETTER_TOPIC, WORK_TOPIC, side_port, token_file


def created(name="/app/a", **changed):
    return {
        "eventVersion": "1.11",
        "eventSource": "logs.amazonaws.com",
        "eventName": "CreateLogGroup",
        "awsRegion": "eu-west-1",
        "recipientAccountId": "111122223333",
        "requestParameters": {"logGroupName": name},
    } | changed


def bridged(record):
    """As an API destination of EventBridge sends it."""
    return {"source": "aws.logs", "detail-type": "AWS API Call via CloudTrail", "account": "111122223333",
            "region": "eu-west-1", "detail": record}  # fmt: skip


def commands(port):
    return [EnsureCommand.from_bytes(value) for value in port.publisher.values(WORK_TOPIC)]


@pytest.mark.parametrize("body", [created(), bridged(created()), {"Records": [created(), created("/app/b")]}])
async def test_an_event_is_accepted_once_kafka_has_its_commands(tmp_path, body):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.post("/v1/events", json=body)
        assert response.status_code == 202
        assert response.json() == {"accepted": len(commands(port))}
        assert [(command.log_group.name, command.trigger) for command in commands(port)] == [
            (name, Trigger.CREATED) for name in ("/app/a", "/app/b")[: len(commands(port))]
        ]


async def test_cloudevents_attributes_come_as_http_headers(tmp_path):
    headers = {"ce-id": "1", "ce-source": "x", "ce-type": "y", "ce-specversion": "1.0"}
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.post("/v1/events", json=created(), headers=headers)
        assert (response.status_code, len(commands(port))) == (202, 1)


async def test_an_event_that_asks_for_nothing_is_accepted_too(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.post("/v1/events", json=created(eventName="PutRetentionPolicy"))
        assert (response.status_code, response.json()) == (202, {"accepted": 0})
        assert commands(port) == []


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", json.dumps(created(requestParameters={})).encode()])
async def test_what_cannot_be_read_is_refused_with_the_field_and_kept_as_a_dead_letter(tmp_path, body):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.post("/v1/events", content=body, headers={"ce-id": "7"})
        assert response.status_code == 400, "which EventBridge does not send again"
        assert response.json()["type"] == "/docs#malformed-events"
        assert all(error["detail"] for error in response.json()["errors"])
        [letter] = port.publisher.records
        assert (letter.topic, letter.value) == (DEAD_LETTER_TOPIC, body)
        headers = dict(letter.headers)
        assert (headers["logwarden-class"], headers["logwarden-source"]) == (b"malformed-event", b"http")
        assert headers["logwarden-reason"]
        assert headers["logwarden-original-topic"] == b"events", "where it can be sent once it can be read"
        assert headers["ce_id"] == b"7"
        assert "authorization" not in headers


async def test_a_body_that_is_too_large_to_be_kept_is_not_said_to_be(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.publisher.max_value_bytes = 1000
        response = await port.client.post("/v1/events", content=b"x" * 2000)
        assert response.status_code == 413
        assert "too large to be kept" in response.json()["detail"]
        assert response.json()["errors"]
        [letter] = port.publisher.records
        assert (letter.topic, letter.value) == (DEAD_LETTER_TOPIC, None)


async def test_the_good_events_of_a_body_are_worked_and_the_bad_ones_named(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        body = {"Records": [created(), created(requestParameters={"logGroupName": "a b"})]}
        response = await port.client.post("/v1/events", json=body)
        assert response.status_code == 400
        assert "1 log groups were accepted" in response.json()["detail"]
        assert "Records[1]" in response.json()["errors"][0]["detail"]
        assert [command.log_group.name for command in commands(port)] == ["/app/a"]
        assert [json.loads(value) for value in port.publisher.values(DEAD_LETTER_TOPIC)] == [body]


async def test_what_cannot_be_read_nor_kept_is_to_be_sent_again(tmp_path):
    async with side_port(token_file(tmp_path), events_timeout_s=0.05) as port:
        port.publisher.stall()
        assert (await port.client.post("/v1/events", content=b"not json")).status_code == 503


async def test_a_kafka_that_does_not_acknowledge_is_the_callers_to_know(tmp_path):
    async with side_port(token_file(tmp_path), events_timeout_s=0.05) as port:
        port.publisher.stall()
        response = await port.client.post("/v1/events", json=created())
        assert response.status_code == 503
        assert response.headers["Retry-After"]


async def test_a_replica_that_is_not_ready_takes_no_events(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.not_ready = "starting"
        assert (await port.client.post("/v1/events", json=created())).status_code == 503
        assert port.publisher.records == []


async def test_events_need_a_token(tmp_path):
    async with side_port(token_file(tmp_path), headers=[]) as port:
        assert (await port.client.post("/v1/events", json=created())).status_code == 401
