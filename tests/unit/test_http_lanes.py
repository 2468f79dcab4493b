"""`GET /v1/lanes`."""

from dataclasses import replace

import jsonschema
import pytest

from service.domain.command import Priority
from service.domain.outcome import FailureClass
from service.domain.status import Hold, LanesStatus, LaneStatus, Trouble
from tests.support.fakes import LANE, lane_number
from tests.support.http import REPLICA, side_port, token_file

BUSY = LaneStatus(
    lane=LANE,
    waiting={Priority.URGENT: 40, Priority.RETRY: 10, Priority.SWEEP: 0},
    in_flight=3,
    rate_per_s=10 / 3,
    ceiling_per_s=5.0,
    throttled_ago_s=2.34567,
    throttled_operation="AssociateKmsKey",
    oldest_waiting_s=12.0,
    hold=Hold("role-not-assumable", 7.5, "AccessDenied: not authorized to perform: sts:AssumeRole"),
)


def idle(number: int) -> LaneStatus:
    return LaneStatus(
        lane=lane_number(number), waiting=dict.fromkeys(Priority, 0), in_flight=0, rate_per_s=5.0, ceiling_per_s=5.0
    )


async def test_a_lane_says_what_waits_how_fast_it_goes_and_what_holds_it_up(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.lanes = LanesStatus.of([idle(1), BUSY])
        response = await port.client.get("/v1/lanes")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    document = response.json()
    assert document["replica"] == REPLICA
    assert document["lanes"][0] == {
        "account": "111122223333",
        "region": "eu-west-1",
        "waiting": {"urgent": 40, "retry": 10, "sweep": 0},
        "in_flight": 3,
        "rate_per_s": 3.333,
        "ceiling_per_s": 5.0,
        "throttled_ago_s": 2.346,
        "throttled_operation": "AssociateKmsKey",
        "oldest_waiting_s": 12.0,
        "held": {
            "reason": "role-not-assumable",
            "detail": "AccessDenied: not authorized to perform: sts:AssumeRole",
            "hint": FailureClass.ROLE_NOT_ASSUMABLE.hint,
            "for_s": 7.5,
        },
        "retrying": None,
        "estimated_end_s": None,
    }
    assert document["lanes"][1]["held"] is None
    assert document["lanes"][1]["throttled_ago_s"] is None


async def test_a_lane_whose_calls_come_to_nothing_says_why_before_it_is_held(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.lanes = LanesStatus.of(
            [replace(BUSY, hold=None, trouble=Trouble("unreachable", "no answer in 10 s", 0.0))]
        )
        [lane] = (await port.client.get("/v1/lanes")).json()["lanes"]

    assert (lane["held"], lane["estimated_end_s"]) == (None, None)
    assert lane["retrying"] == {
        "reason": "unreachable",
        "detail": "no answer in 10 s",
        "hint": FailureClass.UNREACHABLE.hint,
    }


@pytest.mark.parametrize(("limit", "shown"), [("", 100), ("?limit=1", 1), ("?limit=1000", 120)])
async def test_the_list_is_bounded_and_the_totals_are_not(tmp_path, limit, shown):
    async with side_port(token_file(tmp_path)) as port:
        port.lanes = LanesStatus.of([*map(idle, range(119)), BUSY])
        document = (await port.client.get(f"/v1/lanes{limit}")).json()

    assert len(document["lanes"]) == shown
    assert document["lanes"][0]["account"] == LANE.account, "the one that is held is listed first"
    assert document["totals"] == {
        "lanes": 120,
        "waiting": {"urgent": 40, "retry": 10, "sweep": 0},
        "in_flight": 3,
        "held": {"role-not-assumable": 1},
        "oldest_waiting_s": 12.0,
        "estimated_end_s": None,
    }


async def test_a_replica_without_lanes_has_totals_of_nothing(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        document = (await port.client.get("/v1/lanes")).json()

    assert document["lanes"] == []
    assert (document["totals"]["lanes"], document["totals"]["oldest_waiting_s"]) == (0, None)


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "all", ""])
async def test_a_limit_out_of_bounds_is_a_problem_that_names_it(tmp_path, limit):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.get(f"/v1/lanes?limit={limit}")

    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == "/docs#invalid-request"
    assert "limit (query)" in response.json()["errors"][0]["detail"]


@pytest.mark.parametrize("path", ["/v1/lanes", "/v1/status"])
async def test_only_known_callers_are_answered(tmp_path, path):
    async with side_port(token_file(tmp_path), headers=()) as port:
        assert (await port.client.get(path)).status_code == 401
    async with side_port(None) as port:
        assert (await port.client.get(path)).json()["type"] == "/docs#closed"


async def test_it_is_answered_as_documented(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.lanes = LanesStatus.of([idle(1), BUSY])
        document = (await port.client.get("/v1/lanes")).json()
        openapi = (await port.client.get("/openapi.json")).json()

    operation = openapi["paths"]["/v1/lanes"]["get"]
    assert operation["operationId"] == "lanes"
    assert operation["security"]
    assert operation["responses"].keys() == {"200", "400", "401", "403", "503", "default"}
    schema = {"$ref": "#/components/schemas/LanesDocument", "components": openapi["components"]}
    jsonschema.validate(document, schema)
    properties = openapi["components"]["schemas"]["LaneDocument"]["properties"]
    assert all(lane.keys() == properties.keys() for lane in document["lanes"])
