"""`GET /v1/status`."""

import jsonschema

from service.domain.status import ConsumerStatus, PartitionStatus
from service.http.status import ConsumerDocument, RegistryDocument
from tests.support.http import REPLICA, healthy_status, side_port, token_file
from tests.support.virtual_time import EPOCH_MS

WORKER = ConsumerStatus(
    "worker",
    True,
    [
        PartitionStatus("work", 0, pending=3, position=10, committed=9, lag=5, unmoved_s=42.0, is_held_back=True),
        PartitionStatus("work", 1, pending=0, position=None, committed=None, lag=None),
        PartitionStatus("work", 2, pending=1, position=7, committed=7, lag=2),
    ],
)


async def test_the_status_is_that_of_the_replica_that_answers_and_as_documented(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        port.status = healthy_status().model_copy(
            update={
                "registry": RegistryDocument.of(version="abc", loaded_at_ms=EPOCH_MS, last_error=None),
                "consumers": [ConsumerDocument.of(WORKER)],
                "lanes_held": {"unreachable": 2},
            }
        )
        response = await port.client.get("/v1/status")
        openapi = (await port.client.get("/openapi.json")).json()

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    document = response.json()
    assert (document["replica"], document["mode"], document["not_ready"]) == (REPLICA, "enforcing", None)
    assert document["started_at"] == "2025-06-15T15:06:40.000+00:00"
    assert document["registry"] == {"version": "abc", "loaded_at": "2025-06-15T15:06:40.000+00:00", "last_error": None}
    schema = {"$ref": "#/components/schemas/StatusDocument", "components": openapi["components"]}
    jsonschema.validate(document, schema)
    assert document.keys() == openapi["components"]["schemas"]["StatusDocument"]["properties"].keys()


def test_a_consumer_has_totals_of_its_partitions_and_does_not_guess_a_lag():
    document = ConsumerDocument.of(WORKER)
    assert (document.name, document.joined, document.pending, document.lag) == ("worker", True, 4, 7)
    assert [p.lag for p in document.partitions] == [5, None, 2]
    assert [p.partition for p in document.partitions] == [0, 1, 2]
    assert ([p.unmoved_s for p in document.partitions], document.unmoved_s) == ([42, 0, 0], 42)
    assert [p.held_back for p in document.partitions] == [True, False, False]


def test_a_long_error_of_the_registry_is_cut_and_says_so():
    error = ValueError("\n".join(f"tenants.yaml:{n}: is missing" for n in range(1, 10_001)))
    shown = RegistryDocument.of(version="abc", loaded_at_ms=0, last_error=error).last_error
    assert shown is not None
    lines = shown.splitlines()
    assert lines[0] == "tenants.yaml:1: is missing"
    assert (len(lines), lines[-1]) == (21, "and 9980 more")


def test_a_short_error_of_the_registry_is_shown_whole():
    shown = RegistryDocument.of(version="abc", loaded_at_ms=0, last_error=ValueError("one\ntwo")).last_error
    assert shown == "one\ntwo"
