"""The sandbox's AWS as a process: `python -m service.sandbox.aws.server`. `service.sandbox.aws` starts it and says what it can do.

Once it listens, on 127.0.0.1 only, it writes one line of JSON to stdout, `{"endpoint": ..., "account": ...}`. It ends with its stdin,
and so with its parent, however that one ends; or on SIGTERM or SIGINT.

aiohttp serves it, in one event loop: moto's own threads spend more time on taking turns than on work, and a call's latency is then
a timer instead of a thread.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, assert_never
from uuid import uuid4

from aiohttp import web
from moto.core.exceptions import JsonRESTError
from moto.kms.models import Key
from pydantic import TypeAdapter, ValidationError

from service.sandbox.aws.call import SERVICES
from service.sandbox.aws.calls import as_row
from service.sandbox.aws.commands import (
    COMMAND_PATH,
    ClearCalls,
    Command,
    CreateKey,
    CreateLogGroups,
    CreateRole,
    DeleteLogGroup,
    ExpireSessions,
    PutKeyPolicy,
    ReadCalls,
    Reset,
    SetFaults,
    SetKeyState,
    SetQuota,
)
from service.sandbox.aws.endpoint import Endpoint
from service.sandbox.aws.errors import AwsError
from service.sandbox.aws.identity import create_role
from service.sandbox.aws.kms import create_key, find_key, set_key_state
from service.sandbox.aws.shapes import is_operation

_HOST: Final = "127.0.0.1"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: close sends RST


class Control:
    """Does what the scene's setter asks."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def run(self, command: Command) -> Any:  # noqa: C901, PLR0912 - one case for each command
        """Carry out a command; what it answers goes back as JSON. Raises AwsError or moto's JsonRESTError when it cannot."""
        endpoint = self._endpoint
        match command:
            case Reset():
                endpoint.reset()
            case SetFaults():
                for faults in command.faults:
                    _refuse_unknown(faults.operation, (faults.service,) if faults.service else SERVICES)
                endpoint.faults.set(command.faults, seed=command.seed)
            case SetQuota():
                _refuse_unknown(command.operation, ("logs",))
                endpoint.quotas.set(command.operation, command.quota)
            case CreateRole():
                return create_role(
                    account=command.account,
                    name=command.name,
                    external_id=command.external_id,
                    trusted_account=endpoint.sessions.account,
                    partition=command.partition,
                    trust=command.trust,
                    policy=command.policy,
                )
            case CreateKey():
                key = create_key(
                    account=command.account,
                    region=command.region,
                    policy=command.policy,
                    usage=command.usage,
                    spec=command.spec,
                )
                set_key_state(key, command.state)
                return key.arn
            case SetKeyState():
                set_key_state(_existing_key(command.key), command.state)
            case PutKeyPolicy():
                _existing_key(command.key).policy = command.policy
            case CreateLogGroups():
                for group in command.log_groups:
                    endpoint.log_groups.create(
                        account=command.account,
                        region=command.region,
                        name=group.name,
                        tags=group.tags,
                        key=group.kms_key_id,
                    )
            case DeleteLogGroup():
                endpoint.log_groups.delete(account=command.account, region=command.region, name=command.name)
            case ExpireSessions():
                endpoint.sessions.expire(command.account)
            case ReadCalls():
                return [as_row(call) for call in endpoint.calls if command.operation in (None, call.operation)]
            case ClearCalls():
                endpoint.calls.clear()
            case _:
                assert_never(command)
        return None


def _refuse_unknown(operation: str | None, services: Iterable[str]) -> None:
    if operation is not None and not any(is_operation(service, operation) for service in services):
        raise AwsError("UnknownOperationException", f"There is no operation {operation}.")


def _existing_key(arn: str) -> Key:
    key = find_key(arn)
    if key is None:
        raise AwsError("NotFoundException", f"Key '{arn}' does not exist")
    return key


class HttpServer:
    """AWS's calls at `/`, the control commands at `/_sandbox/command`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._control = Control(endpoint)
        self._command = TypeAdapter[Command](Command)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        if request.path == COMMAND_PATH:
            return self._run_command(body)
        answer = await self._endpoint.answer(request.headers, body)
        if answer is None:
            _reset_connection(request)
            return web.Response()  # goes nowhere: aiohttp wants one, and finds the connection gone
        headers = {"Content-Type": answer.content_type, "x-amzn-RequestId": str(uuid4())}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    def _run_command(self, body: bytes) -> web.Response:
        try:
            return web.json_response(self._control.run(self._command.validate_json(body)))
        except (ValidationError, AwsError, JsonRESTError) as e:
            text = f"{e.error_type}: {e.message}" if isinstance(e, JsonRESTError) else str(e)
            return web.json_response({"error": text}, status=HTTPStatus.BAD_REQUEST)


def _reset_connection(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()


async def serve(*, account: str, port: int) -> None:
    """Serve until stdin ends or a signal comes; `port` 0 takes a free one."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    # A thread, since stdin may be a file or a terminal, which an event loop cannot wait for; a daemon, since it cannot be stopped.
    threading.Thread(target=_read_stdin_to_its_end, args=(loop, ended), daemon=True).start()
    endpoint = Endpoint(account=account, now_s=time.monotonic, sleep=asyncio.sleep)
    runner = web.ServerRunner(web.Server(HttpServer(endpoint).handle, access_log=None), shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, port, backlog=1024).start()
        print(json.dumps({"endpoint": f"http://{_HOST}:{runner.addresses[0][1]}", "account": account}), flush=True)  # noqa: T201
        await ended.wait()
    finally:
        await runner.cleanup()


def _read_stdin_to_its_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(ended.set)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--account", required=True, help="the account that callers without a role act in")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 takes a free one")
    args = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("AWS_", "MOTO_"))]:
        del os.environ[name]  # MOTO_ACCOUNT_ID alone would put every caller into one account
    os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "true"  # Regions that are younger than the pinned botocore
    asyncio.run(serve(account=args.account, port=args.port))


if __name__ == "__main__":
    main()
