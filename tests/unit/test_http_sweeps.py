"""Sweeps over HTTP: asking, waiting, looking up, and every way to be refused."""

import asyncio

import jsonschema
import pytest

from service.domain.log_group import Lane, Region
from service.domain.sweep import LaneReport, SweepCommand, new_sweep_id
from service.ports import RecordTooLargeError
from tests.support.fakes import LANE, OTHER_LANE, key_of
from tests.support.http import CALLER, WORK_TOPIC, SidePort, side_port, token_file
from tests.support.virtual_time import EPOCH_MS, virtual_time


async def ask(port: SidePort, **body: object):
    return await port.client.post("/v1/sweeps", json=body)


def report(sweep_id: str, lane: Lane, **counts: int) -> bytes:
    return LaneReport(id=sweep_id, lane=lane, at_ms=EPOCH_MS, is_done=True, counts=counts).to_bytes()


def commands(port: SidePort) -> list[SweepCommand]:
    return [SweepCommand.from_bytes(value) for value in port.publisher.values(WORK_TOPIC)]


@virtual_time
async def test_a_sweep_of_everything_is_a_command_for_every_lane_of_the_registry(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        response = await ask(port)
    assert response.status_code == 202
    document = response.json()
    assert response.headers["Location"] == f"/v1/sweeps/{document['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    assert (document["state"], document["caller"], document["tenant"]) == ("pending", CALLER, None)
    assert document["lanes"] == {"total": 2, "pending": 2, "failed": 0}
    assert {(c.lane, c.sweep_id, c.tenant, c.key) for c in commands(port)} == {
        (lane, document["id"], None, None) for lane in (LANE, OTHER_LANE)
    }
    assert [record.key for record in port.publisher.records[:2]] == [str(LANE).encode(), str(OTHER_LANE).encode()]


@pytest.mark.parametrize(
    ("body", "lanes"),
    [
        ({"accounts": [LANE.account]}, {LANE}),
        ({"regions": [OTHER_LANE.region]}, {OTHER_LANE, Lane(LANE.account, OTHER_LANE.region)}),
        ({"accounts": [LANE.account], "regions": ["us-west-2"]}, {Lane(LANE.account, Region("us-west-2"))}),
        (
            {"accounts": [LANE.account, OTHER_LANE.account], "regions": [LANE.region, OTHER_LANE.region]},
            {
                Lane(account, region)
                for account in (LANE.account, OTHER_LANE.account)
                for region in (LANE.region, OTHER_LANE.region)
            },
        ),
    ],
)
@virtual_time
async def test_what_is_named_is_swept_in_the_registrys_accounts_and_in_regions_without_a_key_too(tmp_path, body, lanes):
    async with side_port(token_file(tmp_path)) as port:
        await ask(port, **body)
    assert {command.lane for command in commands(port)} == lanes


@virtual_time
async def test_a_rekey_says_which_key_is_meant_in_each_lane(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        await ask(port, tenant="tenant-a")
    assert {(c.lane, c.tenant, c.key) for c in commands(port)} == {
        (lane, "tenant-a", key_of(lane)) for lane in (LANE, OTHER_LANE)
    }


@virtual_time
async def test_a_rekey_means_no_key_where_a_region_is_named_and_the_tenant_has_none(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        await ask(port, tenant="tenant-a", accounts=[LANE.account], regions=[LANE.region, "us-west-2"])
    assert {(c.lane, c.key) for c in commands(port)} == {
        (LANE, key_of(LANE)),
        (Lane(LANE.account, Region("us-west-2")), None),
    }


@virtual_time
async def test_without_a_registry_to_list_accounts_and_regions_have_to_be_named(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.directory = None
        refused = await ask(port, accounts=[LANE.account])
        accepted = await ask(port, accounts=[LANE.account], regions=[LANE.region, OTHER_LANE.region])
    assert (refused.status_code, accepted.status_code) == (400, 202)
    assert "name accounts and Regions" in refused.json()["errors"][0]["detail"]
    assert {str(c.lane) for c in commands(port)} == {str(LANE), f"{LANE.account}:{OTHER_LANE.region}"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"accounts": ["1"]}, "#/accounts/0"),
        ({"regions": ["eu-west-1", "europe"]}, "#/regions/1"),
        ({"accounts": ["999999999999"]}, "#"),
        ({"accounts": []}, "#/accounts"),
        ({"regions": []}, "#/regions"),
        ({"everything": True}, "#/everything"),
        ({"tenant": 1}, "#/tenant"),
    ],
)
@virtual_time
async def test_what_cannot_be_swept_is_pointed_at(tmp_path, body, says):
    async with side_port(token_file(tmp_path)) as port:
        response = await ask(port, **body)
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == [says]
    assert port.publisher.records == []


@virtual_time
async def test_a_sweep_is_done_when_every_lane_is_and_whoever_waits_is_told_then(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        location = (await ask(port)).headers["Location"]
        id_ = location.rpartition("/")[2]
        loop = asyncio.get_running_loop()
        began = loop.time()
        loop.call_later(2, port.sweeps.apply, report(id_, LANE, sealed=3))
        loop.call_later(5, port.sweeps.apply, report(id_, OTHER_LANE, sealed=4, excluded=1))
        early = await port.client.get(location, headers={"Prefer": "wait=3"})
        late = await port.client.get(location, headers={"Prefer": "wait=20"})
        assert loop.time() - began == 5
        schema = (await port.client.get("/openapi.json")).json()
    assert (early.json()["state"], early.json()["pending_lanes"]) == ("pending", [str(OTHER_LANE)])
    assert late.json()["state"] == "done"
    assert late.json()["counts"] == {"sealed": 7, "excluded": 1}
    document = {**schema["components"]["schemas"]["SweepDocument"], "components": schema["components"]}
    jsonschema.validate(late.json(), document)


@virtual_time
async def test_the_sweeps_that_are_known_are_listed_the_last_one_first(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        none = await port.client.get("/v1/sweeps")
        ids = []
        for body in ({}, {"tenant": "tenant-a"}, {"accounts": [LANE.account]}):
            ids.append((await ask(port, **body)).json()["id"])
            await asyncio.sleep(1)
        port.sweeps.apply(report(ids[2], LANE, sealed=3))
        port.sweeps.apply(report(new_sweep_id(1, bytes(10)), LANE))  # nobody knows who asked for it
        listed = await port.client.get("/v1/sweeps")
        newest = await port.client.get("/v1/sweeps", params={"limit": 1})
        one = await port.client.get(f"/v1/sweeps/{ids[2]}")
        refused = await port.client.get("/v1/sweeps", params={"limit": 0})
    assert none.json() == {"sweeps": []}
    assert [each["id"] for each in listed.json()["sweeps"]] == ids[::-1]
    assert [each["state"] for each in listed.json()["sweeps"]] == ["done", "pending", "pending"]
    assert newest.json() == {"sweeps": [one.json()]}
    assert refused.status_code == 400


@pytest.mark.parametrize("id_", ["nonsense", new_sweep_id(1, bytes(10))])
@virtual_time
async def test_a_sweep_that_does_not_exist_is_a_problem_of_its_own(tmp_path, id_):
    async with side_port(token_file(tmp_path)) as port:
        response = await port.client.get(f"/v1/sweeps/{id_}")
    assert (response.status_code, response.json()["type"]) == (404, "/docs#unknown-sweep")


@virtual_time
async def test_a_sweep_is_not_known_of_before_all_of_it_is_on_kafka(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.publisher.stall("requests")
        response = await ask(port)
        assert (response.status_code, response.json()["type"]) == (503, "/docs#kafka-does-not-acknowledge")
        id_ = response.json()["detail"].split("Its id is ")[1].partition(".")[0]
        assert (await port.client.get(f"/v1/sweeps/{id_}")).status_code == 404


@virtual_time
async def test_what_is_away_is_named(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.publisher.failure = RecordTooLargeError("requests")
        assert (await ask(port)).status_code == 413
        port.not_ready = "stopping"
        assert (await ask(port)).json()["type"] == "/docs#not-ready"


async def test_nobody_unknown_may_sweep(tmp_path):
    async with side_port(token_file(tmp_path), headers=[]) as port:
        assert (await ask(port)).status_code == 401
        assert (await port.client.get("/v1/sweeps/x")).status_code == 401
