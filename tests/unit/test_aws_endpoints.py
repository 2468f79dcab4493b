"""Which host each service is called at: AWS's own in every partition, or the ones that are set; directly, or through a proxy."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession

from service.aws.clients import AwsClients, Service
from service.domain.outcome import CallFailedError, FailureClass
from tests.support.aws_server import scripted_aws, set_own_environment

OPERATIONS: dict[Service, str] = {
    "logs": "describe_log_groups",
    "kms": "list_keys",
    "sts": "get_caller_identity",
}
CREDENTIALS = AioCredentials("ROLEKEY", "secret", "token")


class RefusingProxy:
    """A proxy that writes down where it was to go, and goes nowhere: so a host is seen without asking a name server for it."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.authorizations: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(" ".join(head.split()[:2]))
        self.authorizations += re.findall(r"(?m)^Proxy-Authorization: (.*)\r$", head)
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def proxy(monkeypatch):
    proxy = RefusingProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    set_own_environment(monkeypatch)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def open_clients(**endpoints: Any) -> AsyncIterator[AwsClients]:
    async with AwsClients(
        own_region="us-east-1",
        connect_timeout_s=5.0,
        read_timeout_s=5.0,
        max_in_flight=16,
        user_agent="logwarden/1",
        **{"endpoint_url": None} | endpoints,
    ) as clients:
        yield clients


async def host_called(proxy: RefusingProxy, clients: AwsClients, service: Service, region: str) -> str:
    with pytest.raises(CallFailedError) as raised:
        await clients.call(service, region, OPERATIONS[service], credentials=CREDENTIALS)
    assert raised.value.failure is FailureClass.UNREACHABLE
    method, host = proxy.asked[-1].split()
    assert method == "CONNECT"
    return host


HOSTS = {
    "eu-west-1": {
        "plain": "{service}.eu-west-1.amazonaws.com",
        "fips": "{service}-fips.eu-west-1.amazonaws.com",
        "dualstack": "{service}.eu-west-1.api.aws",
        "both": "{service}-fips.eu-west-1.api.aws",
    },
    "us-east-1": {
        "plain": "{service}.us-east-1.amazonaws.com",
        "fips": "{service}-fips.us-east-1.amazonaws.com",
        "dualstack": "{service}.us-east-1.api.aws",
        "both": "{service}-fips.us-east-1.api.aws",
    },
    "cn-north-1": {
        "plain": "{service}.cn-north-1.amazonaws.com.cn",
        "fips": "{service}-fips.cn-north-1.amazonaws.com.cn",
        "dualstack": "{service}.cn-north-1.api.amazonwebservices.com.cn",
        "both": "{service}-fips.cn-north-1.api.amazonwebservices.com.cn",
    },
    "us-gov-west-1": {
        "plain": "{service}.us-gov-west-1.amazonaws.com",
        "fips": "{service}.us-gov-west-1.amazonaws.com",  # the plain endpoints of GovCloud are FIPS ones
        "dualstack": "{service}.us-gov-west-1.api.aws",
        "both": "{service}-fips.us-gov-west-1.api.aws",
    },
    # A Region that AWS may open after our release.
    "eu-west-9": {"plain": "{service}.eu-west-9.amazonaws.com", "dualstack": "{service}.eu-west-9.api.aws"},
}
KMS_FIPS_IN_GOVCLOUD = "kms-fips.us-gov-west-1.amazonaws.com"  # KMS alone has another name for it
VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "fips": {"use_fips": True},
    "dualstack": {"use_dualstack": True},
    "both": {"use_fips": True, "use_dualstack": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
async def test_every_partition_has_its_hosts(proxy, variant):
    called: dict[tuple[str, str], str] = {}
    expected: dict[tuple[str, str], str] = {}
    async with open_clients(**VARIANTS[variant]) as clients:
        for region, hosts in HOSTS.items():
            for service in OPERATIONS if variant in hosts else ():
                called[service, region] = await host_called(proxy, clients, service, region)
                expected[service, region] = hosts[variant].format(service=service) + ":443"
    if variant == "fips":
        expected["kms", "us-gov-west-1"] = f"{KMS_FIPS_IN_GOVCLOUD}:443"
    assert called == expected


async def test_every_region_that_botocore_knows_is_called_where_botocore_would_call_it():
    """botocore evaluates its endpoint rules for each call, and we take the URL that its client has: the two must not part."""

    class Answered:
        status_code = 200

    session = AioSession()
    session.register("before-call", lambda params, **_: (Answered, {"url": params["url"]}))
    for partition in ("aws", "aws-cn", "aws-us-gov"):
        for region in await session.get_available_regions("logs", partition):
            for variant in VARIANTS.values():
                config = AioConfig(
                    use_fips_endpoint=variant.get("use_fips"), use_dualstack_endpoint=variant.get("use_dualstack")
                )
                for service, operation in OPERATIONS.items():
                    async with session.create_client(
                        service,
                        region_name=region,
                        config=config,
                        aws_access_key_id="KEY",
                        aws_secret_access_key="secret",
                    ) as client:
                        assert f"{client.meta.endpoint_url}/" == (await getattr(client, operation)())["url"]


async def test_urls_are_taken_by_service_and_region_then_by_service_then_for_all(proxy):
    urls = {
        "logs": "https://logs.{region}.internal.example",
        "logs:us-east-1": "https://vpce-1.logs.us-east-1.vpce.amazonaws.com",
        "sts": "https://sts.example:8443/path",
    }
    async with open_clients(
        endpoint_url="https://aws.{region}.example", endpoint_urls=urls, use_fips=True, use_dualstack=True
    ) as clients:
        called = [
            await host_called(proxy, clients, "logs", "eu-west-1"),
            await host_called(proxy, clients, "logs", "us-east-1"),
            await host_called(proxy, clients, "sts", "eu-west-1"),
            await host_called(proxy, clients, "kms", "eu-west-1"),
        ]
    assert called == [
        "logs.eu-west-1.internal.example:443",
        "vpce-1.logs.us-east-1.vpce.amazonaws.com:443",
        "sts.example:8443",
        "aws.eu-west-1.example:443",
    ]


async def test_a_service_without_a_url_is_called_at_aws(proxy):
    async with open_clients(endpoint_urls={"logs": "https://logs.example"}, use_fips=True) as clients:
        assert await host_called(proxy, clients, "logs", "eu-west-1") == "logs.example:443"
        assert await host_called(proxy, clients, "kms", "eu-west-1") == "kms-fips.eu-west-1.amazonaws.com:443"


@pytest.mark.parametrize(
    ("name", "value", "host"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "true", "sts-fips.eu-west-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true", "sts.eu-west-1.api.aws"),
        ("AWS_ENDPOINT_URL_STS", "https://sts.example", "sts.example"),
        ("AWS_STS_REGIONAL_ENDPOINTS", "legacy", "sts.eu-west-1.amazonaws.com"),
    ],
)
async def test_the_environment_decides_what_is_not_set(proxy, monkeypatch, name, value, host):
    monkeypatch.setenv(name, value)
    async with open_clients() as clients:
        assert await host_called(proxy, clients, "sts", "eu-west-1") == f"{host}:443"


async def test_a_url_is_signed_for_the_region_that_is_called_not_for_one_in_its_name(monkeypatch):
    set_own_environment(monkeypatch)
    async with scripted_aws() as aws, open_clients(endpoint_urls={"logs": aws.endpoint}) as clients:
        for region in ("eu-west-1", "cn-north-1"):
            await clients.call("logs", region, "describe_log_groups", credentials=CREDENTIALS)
    assert [(request.service, request.region) for request in aws.requests] == [
        ("logs", "eu-west-1"),
        ("logs", "cn-north-1"),
    ]


# -- proxies


async def test_a_proxy_is_told_who_we_are(proxy, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{proxy.port}")
    async with open_clients() as clients:
        await host_called(proxy, clients, "logs", "eu-west-1")
    assert proxy.authorizations == ["Basic dXNlcjpzZWNyZXQ="]


async def test_a_host_that_needs_no_proxy_is_called_directly(proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with scripted_aws() as aws, open_clients(endpoint_url=aws.endpoint) as clients:
        await clients.call("logs", "eu-west-1", "describe_log_groups", credentials=CREDENTIALS)
    assert (len(aws.requests), proxy.asked) == (1, [])


async def test_a_plain_endpoint_is_called_through_the_proxy_for_plain_ones(proxy, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "example.com")
    async with open_clients(endpoint_url="http://logs.test") as clients:
        with pytest.raises(CallFailedError) as raised:
            await clients.call("logs", "eu-west-1", "describe_log_groups", credentials=CREDENTIALS)
    assert raised.value.failure is FailureClass.UNREACHABLE
    assert proxy.asked == ["POST http://logs.test/"]
