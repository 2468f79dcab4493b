"""What operators see of a real process that works, is held up and recovers."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.sandbox.aws.faults import Faults
from tests.support.deployment import Deployment, client
from tests.support.organisation import Organisation, created

LANES = [(account, region) for account in ("111122223333", "444455556666") for region in ("eu-west-1", "us-east-1")]


async def metrics(http: httpx.AsyncClient) -> dict[str, float]:
    """The sum of each metric's samples, by name."""
    sums: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families((await http.get("/metrics")).text):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return sums


async def test_lanes_status_and_metrics_agree_on_what_waits_and_why_and_on_the_end_of_it(best_kafka, aws, tmp_path):
    everything = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))
    deployment = await Deployment.create(
        best_kafka, aws, everything, tmp_path, in_place_attempts=1, hold_s=30.0, max_hold_s=30.0, metrics_max_lanes=3
    )
    groups = everything.groups(40)
    await everything.create_groups(aws, groups)
    await aws.inject(Faults(outage="reset"))
    async with deployment.replica() as service, client(service) as http:
        await deployment.publish([created(g) for g in groups])
        async with asyncio.timeout(20):
            while True:
                lanes = (await http.get("/v1/lanes")).json()
                totals = lanes["totals"]
                if totals["waiting"]["urgent"] + totals["in_flight"] == 40 and totals["held"] == {"unreachable": 4}:
                    break
                await asyncio.sleep(0.1)
        status = (await http.get("/v1/status")).json()
        values = await metrics(http)

    assert {(lane["account"], lane["region"]) for lane in lanes["lanes"]} == set(LANES)
    for lane in lanes["lanes"]:
        assert (lane["waiting"]["urgent"] + lane["in_flight"], lane["ceiling_per_s"]) == (10, 5.0)
        assert lane["in_flight"] <= 5, "those that wait for their token: a second's worth"
        assert lane["held"]["reason"] == "unreachable"
        assert 0 < lane["held"]["for_s"] <= 30
        assert lane["estimated_end_s"] is None, "nobody knows when the fault is mended"
    assert lanes["totals"]["held"] == status["lanes_held"] == {"unreachable": 4}
    assert lanes["replica"] == status["replica"]

    assert (status["mode"], status["not_ready"], status["roles"]) == ("enforcing", None, ["http", "ingest", "worker"])
    assert status["last_progress_s"] > 0
    assert status["registry"]["last_error"] is None
    consumers = {consumer["name"]: consumer for consumer in status["consumers"]}
    assert all(consumers[name]["joined"] for name in ("ingest", "worker", "retry"))
    assert len(consumers["worker"]["partitions"]) == 8
    assert (consumers["worker"]["pending"], consumers["worker"]["lag"]) == (40, 40)

    assert values["logwarden_waiting_commands"] == lanes["totals"]["waiting"]["urgent"]
    assert values["logwarden_pending_records"] == 40
    assert values["logwarden_lanes"] == values["logwarden_lanes_held"] == 4
    assert values["logwarden_lane_held"] == 3, "series of their own for as many lanes as the setting says"


async def test_what_was_held_is_seen_to_recover(best_kafka, aws, tmp_path):
    everything = Organisation(accounts=("111122223333", "444455556666"), regions=("eu-west-1", "us-east-1"))
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, in_place_attempts=1)
    groups = everything.groups(8)
    await everything.create_groups(aws, groups)
    await aws.inject(Faults(outage="reset"))
    async with deployment.replica() as service, client(service) as http:
        await deployment.publish([created(g) for g in groups])
        async with asyncio.timeout(20):
            while (await http.get("/v1/status")).json()["lanes_held"] != {"unreachable": 4}:
                await asyncio.sleep(0.1)
        await aws.clear_faults()
        await deployment.final_outcomes(groups)
        async with asyncio.timeout(20):
            while any(c["lag"] or c["pending"] for c in (await http.get("/v1/status")).json()["consumers"]):
                await asyncio.sleep(0.1)
        status = (await http.get("/v1/status")).json()
        totals = (await http.get("/v1/lanes")).json()["totals"]
        values = await metrics(http)

    assert status["lanes_held"] == totals["held"] == {}
    assert sum(totals["waiting"].values()) == totals["in_flight"] == values["logwarden_waiting_commands"] == 0
    assert status["last_progress_s"] < 30
    assert values["logwarden_lanes_held"] == 0


async def test_a_request_that_waits_says_why_on_every_replica_until_it_is_done(best_kafka, aws, tmp_path):
    everything = Organisation(accounts=("111122223333",), regions=("eu-west-1",))
    deployment = await Deployment.create(best_kafka, aws, everything, tmp_path, in_place_attempts=1, hold_s=1.0)
    [group] = groups = everything.groups(1)
    await everything.create_groups(aws, groups)
    await aws.inject(Faults(outage="reset"))

    async def until(http: httpx.AsyncClient, path: str, is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                document: dict[str, Any] = (await http.get(path)).json()
                if is_there(document):
                    return document
                await asyncio.sleep(0.1)

    async with (
        deployment.replica() as first,
        deployment.replica() as second,
        client(first) as one,
        client(second) as another,
    ):
        asked = (
            await one.post(
                "/v1/requests",
                json={"log_groups": [{"account": group.account, "region": group.region, "name": group.name}]},
            )
        ).json()
        path = f"/v1/requests/{asked['id']}"
        for http in (one, another):
            shown = await until(http, path, lambda document: "waits" in document["log_groups"][0])
            assert shown["log_groups"][0]["state"] == "pending"
            assert shown["log_groups"][0]["waits"]["class"] == "unreachable"
            assert shown["log_groups"][0]["waits"]["detail"]
        await aws.clear_faults()
        for http in (one, another):
            done = await until(http, path, lambda document: document["state"] == "done")
            assert "waits" not in done["log_groups"][0]
