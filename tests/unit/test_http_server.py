"""The server on a real socket: it binds before it is used, keeps its hands off signals, and stops in time."""

import asyncio
import signal
import socket
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.http.server import Address, ListenError, serve
from tests.support.http import side_port, token_file

HOST = "127.0.0.1"


class SlowApp:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.may_answer.wait()
        await PlainTextResponse("at last")(scope, receive, send)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(url)


async def test_the_real_port_is_known_and_answers_from_the_start_and_is_free_afterwards():
    async with serve(hello, host=HOST, port=0) as address:
        assert address.port != 0
        response = await get(str(address))
    assert (response.text, "server" in response.headers) == ("hello", False)

    async with serve(hello, host=HOST, port=address.port) as again:
        assert again == address


async def test_a_server_that_is_stopped_at_once_stops():
    async with serve(hello, host=HOST, port=0) as address:
        pass
    with pytest.raises(httpx.ConnectError):
        await get(str(address))


async def test_an_address_that_is_taken_is_a_clear_error():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1, port {port}: .*in use"):
            async with serve(hello, host=HOST, port=port):
                pytest.fail("it serves")


async def test_a_host_that_is_not_ours_is_a_clear_error():
    with pytest.raises(ListenError, match=r"203\.0\.113\.1"):
        async with serve(hello, host="203.0.113.1", port=0):
            pytest.fail("it serves")


def test_an_address_is_shown_as_a_url():
    assert str(Address("127.0.0.1", 8080)) == "http://127.0.0.1:8080"
    assert str(Address("::", 8080)) == "http://[::]:8080"


async def test_signals_are_left_to_the_process():
    def handlers() -> list[Any]:
        return [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    async with serve(hello, host=HOST, port=0) as address:
        await get(str(address))
        assert handlers() == before


async def test_what_ends_the_block_ends_the_server_and_comes_through():
    with pytest.raises(KeyError):
        async with serve(hello, host=HOST, port=0) as address:
            raise KeyError
    with pytest.raises(httpx.ConnectError):
        await get(str(address))


async def test_an_answer_under_way_is_finished_when_the_server_stops():
    app = SlowApp()
    async with serve(app, host=HOST, port=0) as address:
        asking = asyncio.create_task(get(str(address)))
        await app.asked.wait()
        asyncio.get_running_loop().call_later(0.05, app.may_answer.set)

    assert (await asking).text == "at last"


async def test_an_answer_that_does_not_come_is_cut_off_at_the_time_limit():
    app = SlowApp()
    loop = asyncio.get_running_loop()
    async with serve(app, host=HOST, port=0, stop_timeout_s=1) as address:
        asking = asyncio.create_task(get(str(address)))
        await app.asked.wait()
        started = loop.time()

    assert 0.9 < loop.time() - started < 5
    assert (await asking).status_code == 500


async def test_the_side_port_works_over_a_real_connection(tmp_path):
    async with side_port(token_file(tmp_path)) as port, serve(port.app, host=HOST, port=0) as address:
        assert (await get(f"{address}/livez")).text == "ok\n"
        reader, writer = await asyncio.open_connection(address.host, address.port)
        token = port.client.headers["Authorization"]
        writer.write(
            f"POST /v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), 5)  # to the end: the connection is closed
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
