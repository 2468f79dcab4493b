"""Who may call: bearer tokens from a file that can change while we run, and the guard in front of everything under `/v1`."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import ProblemError, ProblemType

GUARDED: Final = "/v1"
REFUSALS: Final = (
    ProblemType.TOKEN_MISSING,
    ProblemType.TOKEN_REFUSED,
    ProblemType.CLOSED,
    ProblemType.TOKENS_UNUSABLE,
)  # what the guard answers, for the documentation of a route under it
bearer: Final = HTTPBearer(
    auto_error=False,  # it only documents: the guard has decided before
    scheme_name="token",
    description="A token of the service's token file; checked before anything else.",
)

_MIN_TOKEN_LENGTH: Final = 16  # characters; `openssl rand -hex 16` makes 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")  # RFC 6750
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-._@/]{0,63}\Z")

_log = structlog.get_logger(__name__)


class TokenFile:
    """Callers by bearer token: one `name:token` or `token` a line, `#` starts a comment line.

    The file is looked at on every use and read again when it has changed, so a token that is taken out is refused from then on. A
    file with a line that cannot be understood lets nobody in.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._callers: Mapping[bytes, str] = {}
        self._complaint: str | None = None

    def caller(self, authorization: str | None) -> str:
        """The name of whoever sends this Authorization header. Raises ProblemError."""
        if self._path is None:
            raise ProblemError(ProblemType.CLOSED)
        callers = self._current(self._path)
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ProblemError(ProblemType.TOKEN_MISSING)
        digest = _digest(token.strip())
        found: str | None = None
        for known, name in callers.items():  # all of them, so that the time taken says nothing
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            raise ProblemError(ProblemType.TOKEN_REFUSED)
        return found

    def _current(self, path: Path) -> Mapping[bytes, str]:
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version != self._version:
                self._callers = read_tokens(path.read_text(encoding="ascii"))
                self._version = version
                self._complaint = None
                _log.info("api_tokens_read", path=str(path), callers=sorted(self._callers.values()))
        except FileNotFoundError as e:  # an optional Secret that nobody has made yet
            self._version = None
            raise ProblemError(ProblemType.CLOSED, f"{path} does not exist.") from e
        except (OSError, ValueError) as e:
            self._version = None
            if (complaint := str(e)) != self._complaint:  # once, not for every caller
                self._complaint = complaint
                _log.error("api_tokens_unusable", path=str(path), reason=complaint)
            raise ProblemError(ProblemType.TOKENS_UNUSABLE) from e
        return self._callers


def read_tokens(text: str) -> dict[bytes, str]:
    """Caller names by the SHA-256 of their token. Raises ValueError, which names the line but never shows it.

    A token without a name is called by the start of its digest, which stays the same when lines move.
    """
    callers: dict[bytes, str] = {}
    for number, name, token in _entries(text):
        digest = _digest(token)
        if digest in callers:
            raise ValueError(f"line {number} repeats a token: whose calls would they be?")
        callers[digest] = name or f"token-{digest.hex()[:8]}"
    return callers


def first_token(text: str) -> str:
    """What a caller who has such a file sends. Raises ValueError as `read_tokens` does."""
    _, _, token = _entries(text)[0]
    return token


def _entries(text: str) -> list[tuple[int, str, str]]:
    """Line number, name and token of each line that has one."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, token = entry.rpartition(":")
        if not _TOKEN.match(token) or len(token) < _MIN_TOKEN_LENGTH or (colon and not _NAME.match(name)):
            raise ValueError(
                f"line {number} is neither name:token nor token, of at least {_MIN_TOKEN_LENGTH} of A-Za-z0-9-._~+/"
            )
        entries.append((number, name, token))
    if not entries:
        raise ValueError("there is no token in it")
    return entries


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Guard:
    """ASGI middleware: whatever is under `/v1`, routes that do not exist included, is answered to known callers only.

    In front of the routes, so that no body is read for a stranger. The caller's name is `request.state.caller` from here on.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenFile) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] == GUARDED or scope["path"].startswith(GUARDED + "/")):
            try:
                scope.setdefault("state", {})["caller"] = self._tokens.caller(Headers(scope=scope).get("authorization"))
            except ProblemError as e:
                _log.warning("http_refused", reason=e.problem.slug, path=scope["path"], client=scope.get("client"))
                await e.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)
