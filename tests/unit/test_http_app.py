"""Probes, metrics and documentation."""

import re
from dataclasses import fields

import jsonschema
import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from service.domain.log_group import LogGroup
from service.domain.outcome import FailureClass, Outcome, State
from service.domain.request import RequestOutcome
from service.http.app import create_app
from service.http.tokens import TokenFile
from tests.support.fakes import TENANT, key_of
from tests.support.http import REPLICA, healthy_status, side_port, token_file
from tests.support.virtual_time import virtual_time


async def test_the_probes_say_ok():
    async with side_port(None) as port:
        for path in ("/livez", "/readyz"):
            response = await port.client.get(path)
            assert (response.status_code, response.text) == (200, "ok\n")


async def test_a_service_that_is_not_ready_is_alive_all_the_same():
    async with side_port(None) as port:
        port.not_ready = "starting"
        ready, live = await port.client.get("/readyz"), await port.client.get("/livez")

    assert (ready.status_code, live.status_code) == (503, 200)
    assert ready.json()["detail"].startswith("starting.")


async def test_a_service_that_is_not_alive_says_why():
    async with side_port(None) as port:
        port.not_alive = "the work consumer has not polled for 70 s"
        live = await port.client.get("/livez")

    assert live.status_code == 503
    assert live.json()["detail"].startswith("the work consumer has not polled for 70 s.")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0"),
    ],
)
async def test_metrics_come_in_the_format_that_is_asked_for(accept, content_type):
    async with side_port(None) as port:
        Counter("logwarden_tests", "Tests.", registry=port.registry).inc(3)
        response = await port.client.get("/metrics", headers={"Accept": accept})

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith(content_type)
    assert response.text.endswith("# EOF\n") is accept.startswith("application")
    samples = [s for f in text_string_to_metric_families(response.text) for s in f.samples]
    assert ("logwarden_tests_total", 3) in [(s.name, s.value) for s in samples]


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_the_pages_load_nothing_from_anywhere(path):
    async with side_port(None) as port:
        response = await port.client.get(path)

    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<link|<img|\bsrc=|https?://|@import|url\(", response.text)


async def test_the_links_of_the_index_lead_somewhere():
    async with side_port(None) as port:
        links = re.findall(r'href="([^"]+)"', (await port.client.get("/")).text)
        assert len(links) >= 5
        assert {(await port.client.get(link)).status_code for link in links} == {200}


async def test_the_documentation_names_every_operation_parameter_and_example():
    async with side_port(None) as port:
        page = (await port.client.get("/docs")).text
        paths = (await port.client.get("/openapi.json")).json()["paths"]

    assert set(paths) == {
        *("/v1/requests", "/v1/requests/{request_id}", "/v1/events", "/v1/lanes", "/v1/status"),
        *("/v1/pause", "/v1/sweeps", "/v1/sweeps/{sweep_id}"),
        *("/livez", "/readyz", "/metrics"),
    }
    for path, methods in paths.items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    for text in ("Prefer (header)", "Idempotency-Key (header)", "request_id (path)", "&quot;arn&quot;", "bearer token"):
        assert text in page


async def test_openapi_documents_who_may_ask_and_every_problem_as_a_problem_document():
    async with side_port(None) as port:
        document = (await port.client.get("/openapi.json")).json()

    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    ask = document["paths"]["/v1/requests"]["post"]
    assert ask["operationId"] == "ask"
    assert ask["security"]
    assert ask["requestBody"]["content"]["application/json"]["examples"].keys() == {"by-name", "by-arn"}
    assert ask["responses"].keys() == {
        *("200", "202", "400", "401", "403", "413", "415", "422", "503"),
        "default",
    }
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if not status.startswith("2"):
                    assert response["content"].keys() == {"application/problem+json"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


@virtual_time
async def test_a_request_is_answered_as_documented(tmp_path):
    orders = LogGroup.of("111122223333", "eu-west-1", "/acme/orders")
    async with side_port(token_file(tmp_path)) as port:
        schema = (await port.client.get("/openapi.json")).json()
        asked = await port.client.post("/v1/requests", json={"log_groups": [{"arn": orders.arn}]})
        failed = Outcome(
            log_group=orders,
            state=State.DEFERRED,
            tenant=TENANT,
            key=key_of(),
            old_key="arn:aws:kms:eu-west-1:111122223333:key/old",
            failure=FailureClass.KEY_NOT_USABLE,
            detail="no",
            attempts=1,
            flips=2,
            retry_in_s=30.0,
        )
        assert all(getattr(failed, each.name) for each in fields(Outcome)), (
            "nothing that an outcome may say is left out here"
        )
        record = RequestOutcome(id=asked.json()["id"], at_ms=1, outcome=failed.as_dict())
        port.requests.apply(record.to_bytes())
        answered = await port.client.get(asked.headers["Location"])

    schemas = schema["components"]["schemas"]
    for response in (asked, answered):
        jsonschema.validate(
            response.json(), {"$ref": "#/components/schemas/RequestDocument", "components": schema["components"]}
        )
        assert response.json().keys() <= schemas["RequestDocument"]["properties"].keys()
        (log_group,) = response.json()["log_groups"]
        assert log_group.keys() <= schemas["LogGroupStatus"]["properties"].keys()


async def test_two_applications_share_nothing():
    async with side_port(None) as one, side_port(None) as other:
        one.not_ready = "stopping"
        assert (await other.client.get("/readyz")).status_code == 200


async def test_a_process_with_other_roles_only_has_probes_and_a_status_but_no_requests_and_no_lanes(tmp_path):
    async with side_port(token_file(tmp_path)) as port:
        app = create_app(
            registry=port.registry,
            tokens=TokenFile(tmp_path / "tokens"),
            not_alive_reason=lambda: None,
            not_ready_reason=lambda: None,
            replica=REPLICA,
            status=healthy_status,
        )
        port.client._transport.app = app  # type: ignore[attr-defined]
        assert (await port.client.get("/livez")).status_code == 200
        assert (await port.client.get("/docs")).status_code == 200
        assert (await port.client.get("/v1/status")).status_code == 200
        assert (await port.client.post("/v1/requests", json={})).status_code == 404
        assert (await port.client.get("/v1/lanes")).status_code == 404
        assert (await port.client.get("/v1/pause")).status_code == 404
