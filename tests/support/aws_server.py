"""A scripted AWS endpoint: every answer is in the test's hands, byte by byte, also those that the sandbox never gives."""

import asyncio
import json
import os
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from aiohttp import web

_CREDENTIAL = re.compile(r"Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/")
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
OWN_ACCOUNT = "999900001111"


@dataclass(frozen=True)
class Request:
    """A call as it came over the wire; `access_key`, `region` and `service` are those of the signature."""

    operation: str
    params: dict[str, Any]
    access_key: str
    region: str
    service: str
    token: str | None
    user_agent: str


@dataclass(frozen=True)
class Answer:
    """What is sent back; `is_cut` closes the connection instead."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/x-amz-json-1.1"
    is_cut: bool = False


CUT = Answer(is_cut=True)


def json_error(code: str, message: str = "", *, status: int = 400) -> Answer:
    return Answer(status, json.dumps({"__type": code, "message": message}).encode())


def query_error(code: str, message: str = "", *, status: int = 400) -> Answer:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Answer(status, f'<ErrorResponse xmlns="{STS_NAMESPACE}">{error}</ErrorResponse>'.encode(), "text/xml")


@dataclass
class ScriptedAws:
    """Answers each operation from its script, then as a healthy AWS would; no answer leaves while `released` is cleared."""

    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    scripts: dict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    released: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    most_in_flight: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def script(self, operation: str, *answers: Answer) -> None:
        self.scripts[operation].extend(answers)

    def requests_of(self, operation: str) -> list[Request]:
        return [request for request in self.requests if request.operation == operation]

    async def until_in_flight(self, count: int) -> None:
        """Wait until so many requests have come and are not answered."""
        while self.in_flight < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def handle(self, http: web.Request) -> web.StreamResponse:
        request = _read(http.headers, await http.read())
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self._arrived.set()
        try:
            await self.released.wait()
        finally:
            self.in_flight -= 1
        script = self.scripts[request.operation]
        answer = script.popleft() if script else self._healthy(request)
        if answer.is_cut and http.transport:
            http.transport.abort()
        return web.Response(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})

    def _healthy(self, request: Request) -> Answer:
        match request.operation:
            case "AssumeRole" | "AssumeRoleWithWebIdentity" as operation:
                nth = len(self.requests_of(operation))
                account = request.params["RoleArn"].split(":")[4]
                result = (
                    f"<{operation}Result><Credentials><AccessKeyId>ROLE{account}N{nth}</AccessKeyId>"
                    f"<SecretAccessKey>secret</SecretAccessKey><SessionToken>token-{account}-{nth}</SessionToken>"
                    f"<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></{operation}Result>"
                )
            case "GetCallerIdentity":
                result = f"<GetCallerIdentityResult><Account>{OWN_ACCOUNT}</Account></GetCallerIdentityResult>"
            case _:
                return Answer(body=b"" if request.operation.endswith("KmsKey") else b"{}")
        name = f"{request.operation}Response"
        return Answer(body=f'<{name} xmlns="{STS_NAMESPACE}">{result}</{name}>'.encode(), content_type="text/xml")


def _read(headers: Any, body: bytes) -> Request:
    target = headers.get("X-Amz-Target")
    params = json.loads(body) if target else dict(parse_qsl(body.decode(), keep_blank_values=True))
    scope = _CREDENTIAL.search(headers.get("Authorization", ""))
    return Request(
        operation=target.rpartition(".")[2] if target else params["Action"],
        params=params,
        access_key=scope["key"] if scope else "",
        region=scope["region"] if scope else "",
        service=scope["service"] if scope else "",
        token=headers.get("X-Amz-Security-Token"),
        user_agent=headers.get("User-Agent", ""),
    )


@asynccontextmanager
async def scripted_aws() -> AsyncIterator[ScriptedAws]:
    """Run the endpoint on a free port of 127.0.0.1."""
    aws = ScriptedAws()
    aws.released.set()
    app = web.Application()
    app.router.add_post("/", aws.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        aws.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield aws
    finally:
        aws.released.set()
        await runner.cleanup()


OWN_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "OWNKEY",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    "NO_PROXY": "127.0.0.1",
}


def set_own_environment(monkeypatch: Any, **changes: str | None) -> None:
    """Give the process credentials of its own, and nothing else of the machine's AWS settings; None leaves a variable out."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (OWN_ENVIRONMENT | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
