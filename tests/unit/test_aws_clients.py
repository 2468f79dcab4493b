import asyncio
import gc
import socket
import warnings
from collections.abc import Awaitable
from typing import Any

import pytest
from aiobotocore.credentials import AioCredentials
from botocore.exceptions import UnknownRegionError
from botocore.loaders import JSONFileLoader

from service.aws.clients import AwsClients, SigningCredentials
from service.domain.outcome import CallFailedError, FailureClass
from tests.support.aws_server import CUT, Answer, json_error, query_error, scripted_aws, set_own_environment

REGION = "eu-west-1"
ARN = "arn:aws:logs:eu-west-1:111122223333:log-group:/app/a"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
PAGE = "<!DOCTYPE html><title>Zugriff verweigert für</title>".encode("latin-1")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    set_own_environment(monkeypatch)


@pytest.fixture
async def aws():
    async with scripted_aws() as aws:
        yield aws


def open_clients(endpoint: str, *, read_timeout_s: float = 5.0, max_in_flight: int = 64, **more: Any) -> AwsClients:
    return AwsClients(
        own_region="us-east-1",
        endpoint_url=endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=read_timeout_s,
        max_in_flight=max_in_flight,
        user_agent="logwarden/1.2.3",
        **more,
    )


@pytest.fixture
async def clients(aws):
    async with open_clients(aws.endpoint) as clients:
        yield clients


def credentials_of(name: object) -> AioCredentials:
    return AioCredentials(f"KEY{name}", "secret", f"token-{name}")


async def associate(
    clients: AwsClients, *, region: str = REGION, credentials: SigningCredentials | None = None
) -> None:
    await clients.call(
        "logs",
        region,
        "associate_kms_key",
        credentials=credentials or credentials_of(0),
        resourceIdentifier=ARN,
        kmsKeyId=KEY,
    )


async def failure_of(calling: Awaitable[object]) -> FailureClass:
    with pytest.raises(CallFailedError) as raised:
        await calling
    return raised.value.failure


async def test_a_call_is_signed_with_the_credentials_that_it_brings_and_sends_nothing_of_them(aws, clients):
    await associate(clients)
    [request] = aws.requests
    assert (request.operation, request.service, request.region) == ("AssociateKmsKey", "logs", REGION)
    assert (request.access_key, request.token) == ("KEY0", "token-0")
    assert request.params == {"resourceIdentifier": ARN, "kmsKeyId": KEY}


async def test_calls_of_many_accounts_at_once_do_not_mix_up_their_credentials(aws, clients):
    names = [f"{region}-{number}" for number in range(100) for region in (REGION, "us-gov-west-1")]
    calls = [
        clients.call(
            "logs",
            name.rpartition("-")[0],
            "associate_kms_key",
            credentials=credentials_of(name),
            resourceIdentifier=name,
            kmsKeyId=KEY,
        )
        for name in names
    ]
    await asyncio.gather(*calls)
    assert sorted(request.params["resourceIdentifier"] for request in aws.requests) == sorted(names)
    for request in aws.requests:
        name = request.params["resourceIdentifier"]
        assert request.token == f"token-{name}"
        assert request.region == name.rpartition("-")[0]


async def test_a_call_without_credentials_fails_instead_of_using_those_of_the_process(aws, clients):
    call = clients.call("logs", REGION, "associate_kms_key", credentials=None, resourceIdentifier=ARN, kmsKeyId=KEY)
    assert await failure_of(call) is FailureClass.CREDENTIALS_MISSING
    assert aws.requests == []


async def test_what_the_credentials_raise_reaches_the_caller_as_it_is(aws, clients):
    class Broken:
        async def get_frozen_credentials(self):
            raise CallFailedError(FailureClass.ROLE_NOT_ASSUMABLE, "no such role")

    assert await failure_of(associate(clients, credentials=Broken())) is FailureClass.ROLE_NOT_ASSUMABLE
    assert aws.requests == []


async def test_a_region_has_one_client_however_many_ask_for_it_first(aws, clients):
    made = []

    async def make_slowly(**_: object) -> None:
        made.append(1)
        await asyncio.sleep(0)

    clients._session.register("creating-client-class.cloudwatch-logs", make_slowly)
    await asyncio.gather(*(associate(clients) for _ in range(20)))
    assert len(made) == 1
    assert len(aws.requests) == 20


async def test_aws_is_told_who_calls(aws, clients):
    await associate(clients)
    sdk, core, product = aws.requests[0].user_agent.split()
    assert (sdk.partition("/")[0], core.partition("/")[0], product) == ("aiobotocore", "botocore", "logwarden/1.2.3")


async def test_as_many_calls_are_under_way_as_were_asked_for(aws):
    async with open_clients(aws.endpoint, max_in_flight=30) as clients:
        aws.released.clear()
        calls = [asyncio.ensure_future(associate(clients)) for _ in range(40)]
        await aws.until_in_flight(30)
        await asyncio.sleep(0.1)  # time for a 31st to come, which it must not
        assert aws.in_flight == 30
        aws.released.set()
        await asyncio.gather(*calls)
    assert aws.most_in_flight == 30


LOGS_ANSWERS = [
    (json_error("ThrottlingException", "Rate exceeded"), FailureClass.THROTTLED),
    (json_error("com.amazonaws.logs#OperationAbortedException"), FailureClass.OPERATION_ABORTED),
    (json_error("ServiceUnavailableException", status=500), FailureClass.SERVICE_UNAVAILABLE),
    (json_error("InternalFailure", status=500), FailureClass.SERVICE_UNAVAILABLE),
    (json_error("SomethingNew", status=503), FailureClass.SERVICE_UNAVAILABLE),
    (json_error("SomethingNew"), FailureClass.UNRECOGNISED),
    (json_error("ResourceNotFoundException"), FailureClass.LOG_GROUP_NOT_FOUND),
    (Answer(503), FailureClass.SERVICE_UNAVAILABLE),
    (Answer(502, b"<html><body>Bad Gateway</body></html>", "text/html"), FailureClass.UNREACHABLE),
    (Answer(503, b"upstream connect error", "text/plain"), FailureClass.UNREACHABLE),
    (Answer(404, b"<UnknownOperationException/>\n"), FailureClass.UNREACHABLE),
    (Answer(407, PAGE, "text/html"), FailureClass.UNREACHABLE),
    (Answer(403, b'"denied"', "application/json"), FailureClass.UNREACHABLE),
    (Answer(200, PAGE, "text/html"), FailureClass.UNREACHABLE),
    (CUT, FailureClass.UNREACHABLE),
]


async def test_each_answer_fails_with_its_class_after_one_request(aws, clients):
    aws.script("AssociateKmsKey", *(answer for answer, _ in LOGS_ANSWERS))
    failures = [(answer, await failure_of(associate(clients))) for answer, _ in LOGS_ANSWERS]
    assert failures == LOGS_ANSWERS
    assert len(aws.requests) == len(LOGS_ANSWERS)
    await associate(clients)


STS_ANSWERS = [
    (query_error("AccessDenied", "not authorized to perform: sts:AssumeRole"), FailureClass.ROLE_NOT_ASSUMABLE),
    (query_error("Throttling"), FailureClass.THROTTLED),
    (Answer(503), FailureClass.SERVICE_UNAVAILABLE),
    (Answer(502, b"<html><body>Bad Gateway</body></html>", "text/html"), FailureClass.UNREACHABLE),
    (Answer(503, b"upstream connect error", "text/plain"), FailureClass.UNREACHABLE),
    (Answer(200, PAGE, "text/html"), FailureClass.UNREACHABLE),
    (Answer(200, b"<cut", "text/xml"), FailureClass.UNREACHABLE),
    (Answer(403, b"no", "text/plain"), FailureClass.UNREACHABLE),
    (CUT, FailureClass.UNREACHABLE),
]


async def test_each_answer_of_sts_fails_with_its_class_after_one_request(aws, clients):
    async def ask() -> None:
        await clients.call("sts", REGION, "get_caller_identity", credentials=credentials_of(0))

    aws.script("GetCallerIdentity", *(answer for answer, _ in STS_ANSWERS))
    failures = [(answer, await failure_of(ask())) for answer, _ in STS_ANSWERS]
    assert failures == STS_ANSWERS
    assert len(aws.requests) == len(STS_ANSWERS)
    await ask()


async def test_an_endpoint_that_nobody_listens_at_is_unreachable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with open_clients(f"http://127.0.0.1:{taken.getsockname()[1]}") as clients:
            assert await failure_of(associate(clients)) is FailureClass.UNREACHABLE


async def test_an_endpoint_that_does_not_speak_tls_is_unreachable(aws):
    async with open_clients(aws.endpoint.replace("http:", "https:")) as clients:
        assert await failure_of(associate(clients)) is FailureClass.UNREACHABLE


async def test_an_answer_that_does_not_come_in_time_is_unreachable(aws):
    aws.released.clear()
    async with open_clients(aws.endpoint, read_timeout_s=0.05) as clients:
        assert await failure_of(associate(clients)) is FailureClass.UNREACHABLE


async def test_a_cancelled_call_passes_on_the_cancellation_and_harms_no_other(aws, clients):
    aws.released.clear()
    call = asyncio.ensure_future(associate(clients))
    await aws.until_in_flight(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    aws.released.set()
    await associate(clients)


async def test_the_end_of_the_context_closes_every_connection(aws):
    async with open_clients(aws.endpoint) as clients:
        await associate(clients)
        await associate(clients, region="us-east-1")
        await clients.call("sts", REGION, "get_caller_identity", credentials=credentials_of(0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del clients
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def test_what_botocore_knows_is_read_before_the_first_call(clients, monkeypatch):
    await clients.load()
    monkeypatch.setattr(JSONFileLoader, "load_file", None)  # whoever reads a file fails
    await associate(clients, region="eu-west-2")


async def test_where_a_client_is_ready_a_call_makes_none(clients, monkeypatch):
    await clients.ready("logs", "eu-west-1")
    monkeypatch.setattr(clients, "_looked_up", None)
    await clients.ready("logs", "eu-west-1")
    await associate(clients)


async def test_a_region_without_a_client_fails_as_its_calls_do(clients, monkeypatch):
    async def refuse(*_: object) -> None:
        raise UnknownRegionError(region_name="nowhere-1", error_msg="no such Region")

    monkeypatch.setattr(clients, "_looked_up", refuse)
    failure = await failure_of(associate(clients, region="nowhere-1"))
    assert await failure_of(clients.ready("logs", "nowhere-1")) is failure


async def test_a_service_that_is_not_where_we_run_is_no_reason_not_to_start(clients, monkeypatch):
    async def refuse(*_: object) -> None:
        raise UnknownRegionError(region_name="nowhere-1", error_msg="no such Region")

    monkeypatch.setattr(clients, "_looked_up", refuse)
    await clients.load()


async def test_each_call_is_told_of_with_its_operation_how_it_ended_and_how_long_that_took(aws):
    told: list[tuple[str, FailureClass | None]] = []

    def on_call(operation: str, failure: FailureClass | None, seconds: float) -> None:
        assert 0 < seconds < 5
        told.append((operation, failure))

    aws.script("AssociateKmsKey", json_error("ThrottlingException"), CUT)
    async with open_clients(aws.endpoint, on_call=on_call) as clients:
        for failure in (FailureClass.THROTTLED, FailureClass.UNREACHABLE):
            assert await failure_of(associate(clients)) is failure
        await associate(clients)
        assert (
            await failure_of(clients.call("kms", REGION, "describe_key", credentials=None, KeyId=KEY))
            is FailureClass.CREDENTIALS_MISSING
        )
    assert told == [
        ("associate_kms_key", FailureClass.THROTTLED),
        ("associate_kms_key", FailureClass.UNREACHABLE),
        ("associate_kms_key", None),
        ("describe_key", FailureClass.CREDENTIALS_MISSING),
    ]


async def test_where_nobody_answers_for_aws_the_endpoint_that_was_asked_is_named(aws):
    aws.script("AssumeRole", Answer(503, b"<html>the proxy is down</html>", "text/html"), query_error("Throttling"))
    async with open_clients(aws.endpoint) as clients:
        with pytest.raises(CallFailedError) as raised:
            await clients.call("sts", "us-east-1", "assume_role", credentials=credentials_of(0), RoleArn="x")
        assert raised.value.detail.startswith(
            f"assume_role in us-east-1 at {aws.endpoint.removeprefix('http://')}: HTTP 503"
        )
        assert "the message names" in raised.value.failure.hint
        with pytest.raises(CallFailedError) as raised:
            await clients.call("sts", "us-east-1", "assume_role", credentials=credentials_of(0), RoleArn="x")
        assert raised.value.detail.startswith("assume_role in us-east-1: Throttling"), "AWS has answered"
