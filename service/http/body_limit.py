"""A limit on request bodies, declared or streamed.

FastAPI's own `max_body_size` answers in plain text, also in place of a refusal that was already on its way.
"""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import ProblemError, ProblemType

MAX_BODY_BYTES: Final = 1024 * 1024  # 1,500 log groups with names of 512 characters take 0.9 MB


class BodyLimit:
    """ASGI middleware: reading a body of more than `max_bytes` raises a 413, before any of it is read where its length is declared."""

    def __init__(self, app: ASGIApp, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        declared = int(length) if length.isdecimal() else 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            if declared <= self._max_bytes:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self._max_bytes:
                    return message
            raise ProblemError(ProblemType.TOO_LARGE, f"A body has at most {self._max_bytes} bytes.")

        await self._app(scope, limited, send)
