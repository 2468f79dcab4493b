"""What goes over the wire and what comes back: against a server of bytes, beside what aiobotocore makes of the same bytes."""

import asyncio
import gc
import re
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import botocore.session
import pytest
from aiobotocore.client import AioBaseClient
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.serialize import create_serializer

from service.aws.clients import AwsClients, Service
from service.aws.errors import VENDOR_ERRORS, ForeignAnswerError, translate
from service.domain.outcome import CallFailedError, FailureClass
from tests.support.aws_server import set_own_environment
from tests.support.tls import self_signed

REGION = "eu-west-1"
PARAMS = {
    "resourceIdentifier": f"arn:aws:logs:{REGION}:111122223333:log-group:/app/a#é",
    "kmsKeyId": f"arn:aws:kms:{REGION}:111122223333:key/1",
}
CREDENTIALS = AioCredentials("ROLEKEY", "secret", "a/token+with=signs")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    set_own_environment(monkeypatch)


# -- the server of bytes


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ByteServer:
    """Answers every request with the same bytes; then goes on, cuts the connection, or says no more."""

    answer: bytes = b""
    then: str = "go on"
    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.strip().split("\r\n")
                headers = dict(header.split(": ", 1) for header in rest)
                body = await reader.readexactly(int(headers.get("Content-Length", "0")))
                self.received.append(Received(line, headers, body))
                writer.write(self.answer)
                await writer.drain()
                if self.then == "cut":
                    return
                if self.then == "reset":
                    writer.transport.abort()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


@asynccontextmanager
async def byte_server(
    answer: bytes = b"", *, then: str = "go on", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ByteServer]:
    server = ByteServer(answer, then)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


def answer(
    status: int = 200, body: bytes = b"", *, content_type: str = "application/x-amz-json-1.1", length: int | None = None
) -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nx-amzn-RequestId: request-1\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


OK = answer()


# -- the two ways


@asynccontextmanager
async def ours(endpoint: str, *, read_timeout_s: float = 5.0) -> AsyncIterator[AwsClients]:
    async with AwsClients(
        own_region="us-east-1",
        endpoint_url=endpoint,
        connect_timeout_s=5.0,
        read_timeout_s=read_timeout_s,
        max_in_flight=16,
        user_agent="logwarden/1.2.3",
    ) as clients:
        yield clients


def associate(clients: AwsClients) -> Awaitable[object]:
    return clients.call("logs", REGION, "associate_kms_key", credentials=CREDENTIALS, **PARAMS)


OPERATIONS: dict[Service, tuple[str, dict[str, str]]] = {
    "logs": ("associate_kms_key", PARAMS),
    "sts": ("get_caller_identity", {}),
}


async def result_of(clients: AwsClients, service: Service = "logs") -> CallFailedError | None:
    """How a call fails, None where it does not."""
    operation, params = OPERATIONS[service]
    try:
        await clients.call(service, REGION, operation, credentials=CREDENTIALS, **params)
    except CallFailedError as e:
        return e
    return None


class ThroughAiobotocore:
    """The same calls through aiobotocore's own clients, one request each, guarded against foreign answers by how these begin."""

    BEGINNINGS = {"logs": re.compile(rb"\s*(\{|\Z)"), "sts": re.compile(rb"\s*<(?!html|!doctype)", re.IGNORECASE)}  # noqa: RUF012

    def __init__(self, clients: dict[Service, AioBaseClient], *, host: str) -> None:
        self._clients = clients
        self._host = host

    @classmethod
    @asynccontextmanager
    async def open(cls, endpoint: str, *, read_timeout_s: float = 5.0) -> AsyncIterator["ThroughAiobotocore"]:
        session = AioSession()
        session.register("before-parse.cloudwatch-logs", partial(cls._refuse_foreign, cls.BEGINNINGS["logs"]))
        session.register("before-parse.sts", partial(cls._refuse_foreign, cls.BEGINNINGS["sts"]))
        config = AioConfig(connect_timeout=5.0, read_timeout=read_timeout_s, retries={"total_max_attempts": 1})
        keys: Any = {"aws_access_key_id": "ROLEKEY", "aws_secret_access_key": "secret", "aws_session_token": "token"}
        async with (
            session.create_client("logs", region_name=REGION, endpoint_url=endpoint, config=config, **keys) as logs,
            session.create_client("sts", region_name=REGION, endpoint_url=endpoint, config=config, **keys) as sts,
        ):
            yield cls({"logs": logs, "sts": sts}, host=endpoint.partition("//")[2])

    @staticmethod
    def _refuse_foreign(beginning, response_dict, **_):
        if not beginning.match(response_dict["body"]):
            raise ForeignAnswerError(response_dict["status_code"], response_dict["body"])

    async def result_of(self, service: Service = "logs") -> CallFailedError | None:
        operation, params = OPERATIONS[service]
        try:
            await getattr(self._clients[service], operation)(**params)
        except VENDOR_ERRORS as e:
            where = "" if isinstance(e, ClientError) else f" at {self._host}"
            return translate(e, call=f"{operation} in {REGION}{where}")
        return None


def xml_error(code: str, message: str) -> bytes:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    return f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{error}</ErrorResponse>'.encode()


JSON_ERROR = b'{"__type":"com.amazonaws.logs#%s","message":"%s"}'
PAGE = b"<!DOCTYPE html><title>Sign in</title>"

# Answers that are whole: class and detail are the same, to the letter.
WHOLE: dict[str, tuple[Service, bytes]] = {
    "success": ("logs", OK),
    "success with an object": ("logs", answer(200, b"{}")),
    "a modelled error": (
        "logs",
        answer(400, JSON_ERROR % (b"ResourceNotFoundException", b"The log group is not there.")),
    ),
    "an error that is not modelled": ("logs", answer(400, JSON_ERROR % (b"ThrottlingException", b"Rate exceeded"))),
    "a code with an address": (
        "logs",
        answer(400, b'{"__type":"AccessDeniedException:http://internal.amazon.com/","Message":"kms key"}'),
    ),
    "an error nobody knows": ("logs", answer(400, JSON_ERROR % (b"SomethingNew", b"\xc3\xa9\\n  x"))),
    "500 with a code": ("logs", answer(500, JSON_ERROR % (b"InternalFailure", b""))),
    "503 with nothing": ("logs", answer(503)),
    "400 with nothing": ("logs", answer(400)),
    "an object without a code": ("logs", answer(403, b'{"reason":"blocked"}', content_type="application/json")),
    "a page with 200": ("logs", answer(200, PAGE, content_type="text/html")),
    "a page with 502": ("logs", answer(502, b"<html><body>Bad Gateway</body></html>", content_type="text/html")),
    "a page with 407": ("logs", answer(407, PAGE, content_type="text/html")),
    "a page with 429": ("logs", answer(429, PAGE, content_type="text/html")),
    "text with 200": ("logs", answer(200, b"it works", content_type="text/plain")),
    "an identity": (
        "sts",
        answer(
            200,
            b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult/>'
            b"</GetCallerIdentityResponse>",
            content_type="text/xml",
        ),
    ),
    "a refusal of STS": ("sts", answer(403, xml_error("AccessDenied", "not authorized to perform: sts:AssumeRole"))),
    "a throttle of STS": ("sts", answer(400, xml_error("Throttling", "Rate exceeded"))),
    "XML that ends early": ("sts", answer(200, b"<cut", content_type="text/xml")),
    "nothing from STS": ("sts", answer(503)),
    "a page for STS": ("sts", answer(200, PAGE, content_type="text/html")),
}
# Answers that are not: the class is the same; the words are aiohttp's instead of aiobotocore's, or the guard is stricter.
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut before the answer": (b"", "cut"),
    "reset before the answer": (b"", "reset"),
    "cut in the head": (b"HTTP/1.1 200 OK\r\nContent-Le", "cut"),
    "cut in the body": (answer(200, b'{"a":', length=20), "cut"),
    "reset in the body": (answer(200, b'{"a":', length=20), "reset"),
    "no end of a chunked body": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "cut"),
    "a wrong length": (answer(200, b"", length=-1), "go on"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "go on"),
    "no answer in time": (b"", "go on"),
    "no end of the answer in time": (answer(200, b"{", length=20), "go on"),
    "an error cut short": (answer(400, b'{"__type":"ThrottlingEx'), "go on"),
    "an overload cut short": (answer(503, b'{"__type":"Thr'), "go on"),
    "a redirect to nowhere": (
        answer(302).replace(b"\r\n", b"\r\nLocation: http://127.0.0.1:9/\r\n", 1),
        "go on",
    ),
}


async def test_a_whole_answer_means_what_it_means_to_aiobotocore():
    async with (
        byte_server() as server,
        ours(server.endpoint) as clients,
        ThroughAiobotocore.open(server.endpoint) as other,
    ):
        found: dict[str, object] = {}
        expected: dict[str, object] = {}
        for name, (service, server.answer) in WHOLE.items():
            for results, result in ((found, result_of(clients, service)), (expected, other.result_of(service))):
                failed = await result
                results[name] = failed and (failed.failure, failed.detail)
    assert found == expected
    assert len(server.received) == 2 * len(WHOLE)


async def test_a_broken_answer_has_the_class_that_it_has_through_aiobotocore():
    async with (
        byte_server() as server,
        ours(server.endpoint, read_timeout_s=0.2) as clients,
        ThroughAiobotocore.open(server.endpoint, read_timeout_s=0.2) as other,
    ):
        found: dict[str, object] = {}
        expected: dict[str, object] = {}
        for name, (server.answer, server.then) in BROKEN.items():
            for results, result in ((found, result_of(clients)), (expected, other.result_of())):
                failed = await result
                results[name] = failed and failed.failure
    assert found == expected
    assert None not in found.values()
    assert len(server.received) == 2 * len(BROKEN)


@pytest.mark.parametrize("body", [b'{"logGroups":[{"logGroupN', b"[]", b'"x"', b'{"logGroups":"\xff"}'])
async def test_a_list_that_is_cut_short_does_not_pass_for_an_empty_one(body):
    async with byte_server(answer(200, body)) as server, ours(server.endpoint) as clients:
        with pytest.raises(CallFailedError, match="not from AWS") as raised:
            await clients.call("logs", REGION, "describe_log_groups", credentials=CREDENTIALS)
    assert raised.value.failure is FailureClass.UNREACHABLE


async def test_answers_are_read_by_the_service_model():
    body = b'{"KeyMetadata":{"KeyId":"1","CreationDate":1767225600,"Enabled":true,"Unknown":1}}'
    async with byte_server(answer(200, body)) as server, ours(server.endpoint) as clients:
        found = await clients.call("kms", REGION, "describe_key", credentials=CREDENTIALS, KeyId="1")
    key = found["KeyMetadata"]
    assert key["CreationDate"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert (key["Enabled"], "Unknown" in key) == (True, False)


# -- what is sent


@pytest.mark.parametrize("path", ["", "/", "/aws/logs%20x/../y%7E"])
@pytest.mark.parametrize("service", ["logs", "sts"])
async def test_what_arrives_bears_the_signature_that_botocore_gives_it(path, service):
    async with byte_server(OK) as server, ours(server.endpoint + path) as clients:
        await result_of(clients, service)
    [request] = server.received
    method, target, _ = request.line.split()
    names = re.search(r"SignedHeaders=([^,]+)", request.headers["Authorization"])
    assert names
    assert "host" in names[1].split(";")
    by_name = {name.lower(): value for name, value in request.headers.items()}
    arrived = AWSRequest(
        method=method,
        url=f"http://{by_name['host']}{target}",
        headers={name: by_name[name] for name in names[1].split(";")},
        data=request.body,
    )
    at = datetime.strptime(by_name["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with patch("botocore.auth.get_current_datetime", lambda: at):
        SigV4Auth(await CREDENTIALS.get_frozen_credentials(), service, REGION).add_auth(arrived)
    assert request.headers["Authorization"] == arrived.headers["Authorization"]
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


async def test_a_request_is_written_as_aiobotocore_writes_it():
    async with (
        byte_server(OK) as server,
        ours(server.endpoint) as clients,
        ThroughAiobotocore.open(server.endpoint) as other,
    ):
        assert await result_of(clients) is None
        assert await other.result_of() is None
    found, expected = server.received
    assert (found.line, found.body) == (expected.line, expected.body)
    left_out = {"amz-sdk-invocation-id", "amz-sdk-request"}  # they count retries, and there are none
    assert {name.lower() for name in found.headers} == {name.lower() for name in expected.headers} - left_out
    for name in ("Host", "X-Amz-Target", "Content-Type", "Accept-Encoding"):
        assert found.headers[name] == expected.headers[name]


@pytest.mark.parametrize(
    ("service", "method", "params"),
    [
        ("logs", "associate_kms_key", PARAMS),
        ("logs", "list_tags_for_resource", {"resourceArn": PARAMS["resourceIdentifier"]}),
        ("logs", "describe_log_groups", {"logGroupIdentifiers": ["/a", "/b"], "nextToken": "more"}),
        ("logs", "describe_log_groups", {"limit": 50}),
        ("logs", "list_log_groups", {"logGroupTags": [{"key": "logwarden:ignore"}], "limit": 1000}),
        ("kms", "describe_key", {"KeyId": "alias/é"}),
        ("kms", "get_key_policy", {"KeyId": "1", "PolicyName": "default"}),
    ],
)
async def test_parameters_are_written_as_botocores_serializer_writes_them(service, method, params):
    async with byte_server(OK) as server, ours(server.endpoint) as clients:
        assert await clients.call(service, REGION, method, credentials=CREDENTIALS, **params) == {}
    [found] = server.received
    model = botocore.session.get_session().get_service_model(service)
    operation = model.operation_model(method.title().replace("_", ""))
    expected = create_serializer("json").serialize_to_request(params, operation)
    assert found.body == expected["body"]
    assert {name: found.headers[name] for name in expected["headers"]} == expected["headers"]


async def test_a_redirect_is_not_followed_so_that_no_token_goes_elsewhere():
    async with byte_server(OK) as elsewhere:
        location = f"\r\nLocation: {elsewhere.endpoint}/\r\n".encode()
        async with byte_server() as server, ours(server.endpoint) as clients:
            for status in (301, 302, 307, 308):
                server.answer = answer(status).replace(b"\r\n", location, 1)
                with pytest.raises(CallFailedError) as raised:
                    await associate(clients)
                assert raised.value.failure is FailureClass.UNREACHABLE
    assert elsewhere.received == []


# -- connections


async def test_a_connection_is_used_again():
    async with byte_server(OK) as server, ours(server.endpoint) as clients:
        for _ in range(3):
            await associate(clients)
    assert (len(server.received), server.connections) == (3, 1)


async def test_a_connection_that_is_idle_for_longer_than_an_answer_may_take_is_used_again():
    async with byte_server(OK) as server, ours(server.endpoint, read_timeout_s=0.2) as clients:
        await associate(clients)
        await asyncio.sleep(0.3)
        await associate(clients)
    assert (len(server.received), server.connections) == (2, 1)


async def test_what_comes_before_the_answer_is_not_the_answer():
    async with byte_server(b"HTTP/1.1 102 Processing\r\n\r\n" * 2 + OK) as server, ours(server.endpoint) as clients:
        assert await result_of(clients) is None


async def test_a_plain_endpoint_is_called_through_its_proxy(monkeypatch):
    async with byte_server(OK) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint.replace("//", "//user:secret@"))
        async with ours("http://logs.internal.example") as clients:
            await associate(clients)
            await associate(clients)
    assert {received.line for received in proxy.received} == {"POST http://logs.internal.example/ HTTP/1.1"}
    assert {received.headers["Host"] for received in proxy.received} == {"logs.internal.example"}
    assert {received.headers["Proxy-Authorization"] for received in proxy.received} == {"Basic dXNlcjpzZWNyZXQ="}
    assert (len(proxy.received), proxy.connections) == (2, 1)


async def test_a_token_of_two_lines_makes_no_header_of_its_own():
    async with byte_server(OK) as server, ours(server.endpoint) as clients:
        with pytest.raises(ValueError, match="more than one line"):
            await clients.call(
                "logs", REGION, "associate_kms_key", credentials=AioCredentials("KEY", "secret", "a\r\nX: b"), **PARAMS
            )
    assert not server.received


async def test_a_cancelled_call_closes_its_connection_so_that_its_late_answer_is_nobody_elses():
    async with byte_server(b"") as server, ours(server.endpoint) as clients:
        call = asyncio.ensure_future(associate(clients))
        while not server.received:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(5):
            await server.closed.wait()
        server.answer = OK
        await associate(clients)
    assert server.connections == 2


async def test_all_services_and_regions_share_one_tls_context():
    def contexts() -> int:
        gc.collect()
        return sum(isinstance(thing, ssl.SSLContext) for thing in gc.get_objects())

    before = contexts()
    async with byte_server(OK) as server, ours(server.endpoint) as clients:
        for region in ("eu-west-1", "us-east-1", "us-gov-west-1"):
            await clients.call("logs", region, "describe_log_groups", credentials=CREDENTIALS)
            await clients.call("kms", region, "list_keys", credentials=CREDENTIALS)
        assert contexts() == before + 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    file.write_bytes(b"".join(self_signed("logs.example")))
    return file


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_a_certificate_is_checked_against_the_bundle_that_the_environment_names(
    monkeypatch, certificate, variable
):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with byte_server(OK, tls=tls) as server:
        endpoint = server.endpoint.replace("http:", "https:")
        async with ours(endpoint) as clients:
            with pytest.raises(CallFailedError, match="CERTIFICATE_VERIFY_FAILED") as raised:
                await associate(clients)
        assert raised.value.failure is FailureClass.UNREACHABLE
        monkeypatch.setenv(variable, str(certificate))
        async with ours(endpoint) as clients:
            await associate(clients)
    assert len(server.received) == 1


async def test_a_bundle_that_cannot_be_read_is_named(monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
    async with byte_server(OK) as server, ours(server.endpoint) as clients:
        with pytest.raises(CallFailedError, match=r"CA bundle /nonexistent/bundle\.pem: .*No such file"):
            await associate(clients)
    assert server.received == []
