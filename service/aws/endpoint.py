"""POST requests to one URL, by aiohttp's connections and parser, without what its sessions do besides.

A session makes objects of the request and of the answer, a task to write the body, and looks for cookies, redirects and traces: that
is two thirds of a call's CPU, 45 us, and nothing of it is for us. Connections, TLS, proxies, timeouts and parsing are aiohttp's.
"""

from collections.abc import Mapping

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL


class Endpoint:
    """Where requests are sent to, over the connections of a session."""

    def __init__(self, url: URL, *, proxy: str | None, http: aiohttp.ClientSession) -> None:
        if http.connector is None:
            raise RuntimeError("the session is closed")
        self._connector = http.connector
        self._timeout = http.timeout
        # Says which connections will do; it is never sent.
        self._request = aiohttp.ClientRequest("POST", url, proxy=URL(proxy) if proxy else None)
        is_forwarded = proxy is not None and not self._request.is_ssl()
        self._first_line = f"POST {url if is_forwarded else url.raw_path_qs} HTTP/1.1"

    async def post(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request with these headers, which have to name the host; return the answer's status, headers and body.

        Raises aiohttp.ClientError, TimeoutError among them, and ValueError for a header of two lines. A cancelled one closes its
        connection.
        """
        try:
            connection = await self._connector.connect(self._request, traces=[], timeout=self._timeout)
        except TimeoutError as e:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self._request.url}") from e
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:  # it was lost this moment
            connection.close()
            raise aiohttp.ServerDisconnectedError
        try:
            protocol.set_response_params(auto_decompress=False, read_timeout=self._timeout.sock_read)
            transport.write(self._head(headers, len(body)) + body)
            protocol.start_timeout()
            answer, content = await protocol.read()
            while answer.code < 200:  # of them there may be any number before the answer
                answer, content = await protocol.read()
            received = await content.read()
        except HttpProcessingError as e:
            connection.close()
            raise aiohttp.ClientResponseError(
                self._request.request_info, (), status=e.code, message=e.message, headers=e.headers
            ) from e
        except BaseException:  # a cancellation too: what comes next on this connection is the answer to this request
            connection.close()
            raise
        connection.release()
        return answer.code, answer.headers, received

    def _head(self, headers: Mapping[str, str], length: int) -> bytes:
        to_proxy = self._request.headers.get("Proxy-Authorization")
        all_headers = headers if to_proxy is None else {**headers, "Proxy-Authorization": to_proxy}
        lines = [f"{name}: {value}" for name, value in all_headers.items()]
        head = "\r\n".join([self._first_line, *lines, f"Content-Length: {length}", "", ""])
        if head.count("\n") != len(lines) + 3 or head.count("\r") != len(lines) + 3:
            raise ValueError("a header has more than one line")
        return head.encode()
