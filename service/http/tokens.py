"""Who may call: bearer tokens from a file that can change while we run, and the guard in front of everything under `/v1`."""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import structlog
from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from service.http.problems import ProblemError, ProblemType, documented

GUARDED: Final = "/v1"
_REFUSALS: Final = (
    ProblemType.TOKEN_MISSING,
    ProblemType.TOKEN_REFUSED,
    ProblemType.SCOPE_MISSING,
    ProblemType.CLOSED,
    ProblemType.TOKENS_UNUSABLE,
)  # what the guard answers
_bearer: Final = HTTPBearer(
    auto_error=False,  # it only documents: the guard has decided before
    scheme_name="token",
    description="A token of the service's token file; checked before anything else.",
)

_MIN_TOKEN_LENGTH: Final = 16  # characters; `openssl rand -hex 16` makes 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")  # RFC 6750
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-._@/]{0,63}\Z")

_log = structlog.get_logger(__name__)


class Scope(StrEnum):
    """What a token may do; none of them includes another."""

    READ = "read"
    ENSURE = "ensure"
    OPERATE = "operate"


def scope_of(method: str, path: str) -> Scope:
    """What a call under `/v1` needs: what changes something, and is not known here, needs the most."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return Scope.READ
    return Scope.ENSURE if path in {f"{GUARDED}/requests", f"{GUARDED}/events"} else Scope.OPERATE


def guarded_routes(path: str, *, tag: str) -> APIRouter:
    """Routes under `/v1` and this path, for an app that guards them, documented as such."""
    return APIRouter(prefix=f"{GUARDED}{path}", tags=[tag], dependencies=[Depends(_bearer)])


def guarded(*problems: ProblemType) -> dict[int | str, dict[str, Any]]:
    """As `documented`, with what the guard answers too."""
    return documented(*_REFUSALS, *problems)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it is, and what it may do."""

    name: str
    scopes: frozenset[Scope]


class TokenFile:
    """Callers by bearer token: one `name:token`, `token` or `name:token:scopes` a line, `#` starts a comment line.

    `scopes` are of `Scope`, with commas between them; without the field a token may do everything.

    The file is looked at on every use and read again when it has changed. A line that cannot be understood lets nobody in, and takes
    nobody else's token away; a token that is taken out is refused from then on, whatever else is wrong with the file. So a file that is
    absent, or has no token, lets nobody in. One that is there and cannot be read says nothing of who is taken out: the tokens that were
    read last stay in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._callers: Mapping[bytes, Caller] = {}
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the file as it is now, None where nothing is; no file is no problem."""
        if self._path is not None:
            self._look(self._path)
        return self._problem

    def caller(self, authorization: str | None, *, needs: Scope | None = None) -> str:
        """The name of whoever sends this Authorization header, and may do what `needs` that. Raises ProblemError."""
        if self._path is None:
            raise ProblemError(ProblemType.CLOSED)
        if not self._look(self._path):
            raise ProblemError(ProblemType.CLOSED, f"{self._path} does not exist.")
        if not self._callers:
            raise ProblemError(ProblemType.TOKENS_UNUSABLE)
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ProblemError(ProblemType.TOKEN_MISSING)
        digest = _digest(token.strip())
        found: Caller | None = None
        for known, caller in self._callers.items():  # all of them, so that the time taken says nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise ProblemError(ProblemType.TOKEN_REFUSED)
        if needs is not None and needs not in found.scopes:
            has = ", ".join(sorted(found.scopes))
            raise ProblemError(
                ProblemType.SCOPE_MISSING, f"It needs the scope {needs}; the token of {found.name} has {has}."
            )
        return found.name

    def _look(self, path: Path) -> bool:
        """Take in the file as it is now; say whether it is there."""
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version != self._version:
                self._callers, wrong = read_tokens(path.read_text(encoding="ascii", errors="replace"))
                self._version = version
                _log.info(
                    "api_tokens_read", path=str(path), callers=sorted(each.name for each in self._callers.values())
                )
                self._complain("; ".join(wrong) or (None if self._callers else "there is no token in it"))
        except FileNotFoundError:  # an optional Secret that nobody has made yet, or that somebody has taken away
            self._version, self._callers = None, {}
            self._complain(None)
            return False
        except OSError as e:
            self._version = None
            self._complain(str(e))
        return True

    def _complain(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:  # once, not for every caller
            _log.error("api_tokens_unusable", path=str(self._path), reason=problem, in_force=len(self._callers))
        self._problem = problem


def read_tokens(text: str) -> tuple[dict[bytes, Caller], list[str]]:
    """Callers by the SHA-256 of their token, and what is wrong with which line, which never shows it.

    A token without a name is called by the start of its digest, which stays the same when lines move. One that is repeated is the
    first line's.
    """
    callers: dict[bytes, Caller] = {}
    wrong: list[str] = []
    for number, name, token, scopes in _entries(text):
        if token is None:
            wrong.append(_not_a_token(number))
        elif not scopes:
            wrong.append(f"line {number} has scopes that are not of {', '.join(Scope)}")
        elif (digest := _digest(token)) in callers:
            wrong.append(f"line {number} repeats a token: whose calls would they be?")
        else:
            callers[digest] = Caller(name or f"token-{digest.hex()[:8]}", scopes)
    return callers, wrong


def first_token(text: str) -> str:
    """What a caller who has such a file sends. Raises ValueError, which names the line but never shows it."""
    tokens: list[str] = []
    for number, _, token, _ in _entries(text):
        if token is None:
            raise ValueError(_not_a_token(number))
        tokens.append(token)
    if not tokens:
        raise ValueError("there is no token in it")
    return tokens[0]


def _entries(text: str) -> Iterator[tuple[int, str, str | None, frozenset[Scope]]]:
    """Line number, name, token and scopes of each line that is to have one; None for a token that is none, or whose name is none, no
    scopes for those that are none.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        match entry.split(":"):
            case [token]:
                name, scopes = "", frozenset(Scope)
                is_named = True
            case [name, token, *rest] if len(rest) <= 1:
                scopes = _scopes(rest[0]) if rest else frozenset(Scope)
                is_named = _NAME.match(name) is not None
            case _:
                name, token, scopes, is_named = "", "", frozenset(), False
        is_right = is_named and _TOKEN.match(token) and len(token) >= _MIN_TOKEN_LENGTH
        yield number, name, token if is_right else None, scopes


def _scopes(text: str) -> frozenset[Scope]:
    """Of a third field; none where one of them is none, so that a mistake gives nobody a right."""
    names = {each.strip() for each in text.split(",")}
    return frozenset(map(Scope, names)) if names <= set(Scope) else frozenset()


def _not_a_token(number: int) -> str:
    return (
        f"line {number} is none of name:token, token and name:token:scopes, "
        f"with a token of at least {_MIN_TOKEN_LENGTH} of A-Za-z0-9-._~+/"
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Guard:
    """ASGI middleware: whatever is under `/v1`, routes that do not exist included, is answered to known callers only who may do it.

    In front of the routes, so that no body is read for a stranger. The caller's name is `request.state.caller` from here on.
    """

    def __init__(self, app: ASGIApp, *, tokens: TokenFile) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] == GUARDED or scope["path"].startswith(GUARDED + "/")):
            try:
                scope.setdefault("state", {})["caller"] = self._tokens.caller(
                    Headers(scope=scope).get("authorization"), needs=scope_of(scope["method"], scope["path"])
                )
            except ProblemError as e:
                _log.warning("http_refused", reason=e.problem.slug, path=scope["path"], client=scope.get("client"))
                await e.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)
