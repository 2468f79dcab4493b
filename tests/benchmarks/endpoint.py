"""An AWS that answers at once, or after a fixed time, and does next to nothing else: `python -m tests.benchmarks.endpoint LATENCY_S`.

The sandbox AWS works a call like AWS and so manages some hundreds a second; where the caller's cost is measured the endpoint must not
be what is waited for. This one reads as much of HTTP as SDKs send, checks nothing, and answers some 50,000 calls a second. It writes
its port to stdout and ends with its stdin.
"""

import asyncio
import json
import re
import sys
from contextlib import asynccontextmanager
from typing import ClassVar

import httpx
import uvloop

OWN_ACCOUNT = "999900001111"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLE01",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STS = "https://sts.amazonaws.com/doc/2011-06-15/"
_SESSION = (
    f'<AssumeRoleResponse xmlns="{_STS}"><AssumeRoleResult><Credentials><AccessKeyId>ASIAEXAMPLEEXAMPLE01</AccessKeyId>'
    "<SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>"
    "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
)
# Every key is in order, and every log group is under the one that was last asked for in its account and Region.
_KEY_POLICY = json.dumps({"Policy": json.dumps({"Version": "2012-10-17", "Statement": []})})
_ASSOCIATION = re.compile(rb'arn:aws:logs:([a-z0-9-]+):([0-9]{12}):log-group:([^"]+)"')
_KEY = re.compile(rb"arn:aws:kms:[a-z0-9-]+:[0-9]{12}:key/[a-z0-9-]+")


def _answer(content_type: str, body: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 5d2a6d0e-0001-4000-8000-000000000001\r\nContent-Type: {content_type}"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


_ASSOCIATED = _answer("application/x-amz-json-1.1")  # AssociateKmsKey answers with nothing
_ASSUMED = _answer("text/xml", _SESSION)


class _Connection(asyncio.Protocol):
    """One client's connection, with one request under way at a time."""

    associated = 0  # by all connections
    keys: ClassVar[dict[bytes, str]] = {}  # of log groups, by name: names differ between accounts in every benchmark

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end_of_head = self._received.find(b"\r\n\r\n")
        if end_of_head < 0:
            return
        length = _CONTENT_LENGTH.search(self._received, 0, end_of_head)
        if len(self._received) < end_of_head + 4 + (int(length[1]) if length else 0):
            return
        request, self._received = self._received, b""
        if b"Logs_20140328.AssociateKmsKey" in request:
            _Connection.associated += 1
            if (group := _ASSOCIATION.search(request)) and (key := _KEY.search(request)):
                _Connection.keys[group[3]] = key[0].decode()
            if self._latency_s:
                asyncio.get_running_loop().call_later(self._latency_s, self._transport.write, _ASSOCIATED)
            else:
                self._transport.write(_ASSOCIATED)
        elif b"Action=AssumeRole" in request:
            self._transport.write(_ASSUMED)
        elif (
            b"Logs_20140328.DescribeLogGroups" in request or b"Logs_20140328.ListLogGroups" in request
        ):  # none has a tag
            names = json.loads(request[end_of_head + 4 :]).get("logGroupIdentifiers", [])
            groups = [{"logGroupName": name, "kmsKeyId": _Connection.keys.get(name.encode())} for name in names]
            self._transport.write(_answer("application/x-amz-json-1.1", json.dumps({"logGroups": groups})))
        elif b"TrentService.DescribeKey" in request and (key := _KEY.search(request)):
            facts: dict[str, object] = {
                "Arn": key[0].decode(),
                "KeyId": key[0].decode().rpartition("/")[2],
                "KeyState": "Enabled",
            }
            facts |= {"Enabled": True, "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT"}
            self._transport.write(_answer("application/x-amz-json-1.1", json.dumps({"KeyMetadata": facts})))
        elif b"TrentService.GetKeyPolicy" in request:
            self._transport.write(_answer("application/x-amz-json-1.1", _KEY_POLICY))
        else:
            self._transport.write(_answer("text/plain", str(_Connection.associated)))


async def _serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


class QuickAws:
    """The handle of such a process, with as much of AwsSandbox as a deployment asks for."""

    account = OWN_ACCOUNT

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    @classmethod
    @asynccontextmanager
    async def start(cls, *, latency_s: float = 0.0):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.endpoint", str(latency_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield cls(f"http://127.0.0.1:{int(await process.stdout.readline())}")
        finally:
            process.stdin.close()
            await process.wait()

    def environment(self, region: str) -> dict[str, str]:
        return KEYS | {"AWS_REGION": region}

    async def create_role(self, account: str, name: str, external_id: str, *, policy: object = None) -> None:
        """Every role is there."""

    async def create_key(self, account: str, region: str, *, policy) -> str:
        return f"arn:aws:kms:{region}:{account}:key/0d9ac4b8-0001-4000-8000-000000000001"

    async def associated(self) -> int:
        """How many AssociateKmsKey calls have come so far."""
        async with httpx.AsyncClient(trust_env=False) as http:
            return int((await http.get(self.endpoint)).text)


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1])))
