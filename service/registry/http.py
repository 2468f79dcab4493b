"""Tenants from a tenant service, over HTTP:

    GET {url}/accounts/{account}   200: the account's tenant document, in JSON; with an ETag it is asked for by If-None-Match, 304
                                   404 with {"account": "ID"}, this very account: no tenant lists it
    GET {url}/version              200: a text that changes with any tenant; 404: the service has none
    GET {url}/tenants?limit=500    200: as many tenants at most as one document, in JSON, with "next": "TEXT" where there are more
        [&after=TEXT]              and TEXT is the `next` of the page before; 404: the service has no such list.
                                   Each page has a tenant that none before it had, and another `next`

The document is the tenant file cut down to the account: `version: 1`, `tenants` (those with a rule on the account, and the default
tenant), `default_tenant` and `exclude`. That of a page of tenants is cut down to those tenants. Without the list, sweeps and re-keys
have to name accounts and Regions, and tenants are not re-keyed by themselves. Anything else is a failure and never an answer: redirects,
other statuses, and a 404 that does not name the account, since that is what an ingress or a framework says for a path that is wrong.
"""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode

import httpx

from service.domain.log_group import AccountId
from service.registry.document import AccountDocuments, digest_of
from service.registry.polling import VersionPoll
from service.registry.source import (
    AccountTenants,
    CannotListError,
    Invalidate,
    SourceDataError,
    SourceUnavailableError,
    TenantPage,
)

_MAX_BODY_BYTES: Final = 16 * 1024 * 1024  # ten thousand tenants that share one account
_MAX_VERSION_BYTES: Final = 1024
_PAGE: Final = 500  # tenants that are asked for at once: some 250 kB
_POOL: Final = 16  # connections: what the cache asks at once
_KEEPALIVE_S: Final = 2.0  # under the 5 s of common servers: one that they are closing would fail the request
_SHOWN: Final = 200  # characters of a foreign answer


class HttpSource:
    """The `AccountSource` over such a service. Use it as a context manager.

    The bearer token is read from `token_file` for every request, so that a rotated one is used at once. Proxies and a CA bundle
    come from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).
    """

    def __init__(self, *, url: str, token_file: Path | None, timeout_s: float, poll_interval_s: float) -> None:
        self.name = str(httpx.URL(url).copy_with(userinfo=b"", query=None))  # goes into logs
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._documents = AccountDocuments()
        self._http = httpx.AsyncClient(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_POOL, keepalive_expiry=_KEEPALIVE_S),
            follow_redirects=False,
            headers={"Accept": "application/json"},
        )
        self._poll = VersionPoll(self._read_version, source=self.name, interval_s=poll_interval_s, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def version(self) -> str | None:
        """The service's version, as `watch` last read it."""
        return self._poll.version

    async def watch(self, invalidate: Invalidate) -> None:
        """Read the version every few seconds; returns where the service has none."""
        await self._poll.run(invalidate)

    async def on_account(self, account: AccountId, known: AccountTenants | None) -> AccountTenants:
        """Everything that may concern an account. Raises SourceError."""
        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        response, body = await self._get(f"accounts/{account}", headers, max_bytes=_MAX_BODY_BYTES)
        is_json = _is_json(response)
        if response.status_code == httpx.codes.NOT_MODIFIED and known is not None and headers:
            return known
        if response.status_code == httpx.codes.NOT_FOUND and is_json and _names(body, account):
            return await self._documents.answer({"version": 1}, account=account, known=known)
        if response.status_code != httpx.codes.OK or not is_json:
            raise _unusable(response, body)
        return await self._documents.answer(
            _document(body), account=account, known=known, etag=response.headers.get("etag")
        )

    async def tenants(self) -> AsyncGenerator[TenantPage, None]:
        """Every tenant, by the pages of the service. Raises SourceError, also for pages that go round in a circle."""
        after: Any = ""
        nexts: set[str] = set()
        ids: set[str] = set()
        while True:
            path = f"tenants?{urlencode({'limit': _PAGE} | ({'after': after} if after else {}))}"
            response, body = await self._get(path, {}, max_bytes=_MAX_BODY_BYTES)
            if response.status_code == httpx.codes.NOT_FOUND and not after:
                raise CannotListError("the tenant service has no list of tenants")
            if response.status_code != httpx.codes.OK or not _is_json(response):
                raise _unusable(response, body)
            page = _document(body)
            tenants, after = (
                (page.pop("tenants", None), page.pop("next", None)) if isinstance(page, dict) else (None, None)
            )
            if not isinstance(tenants, list):
                raise SourceDataError("a page of tenants is no document with a list of them")
            if not isinstance(after, str | None) or (after and not tenants):
                raise SourceDataError("a page of tenants names a next one that leads nowhere")
            new = {_id_of(tenant) for tenant in tenants} - ids
            if after in nexts or (nexts and after and not new):
                raise SourceDataError("the pages of tenants repeat themselves: the service does not heed `after`")
            yield TenantPage(page, tenants)
            if not after:
                return
            nexts.add(after)
            ids |= new

    async def _read_version(self) -> str | None:
        response, body = await self._get("version", {}, max_bytes=_MAX_VERSION_BYTES)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise _unusable(response, body)
        return digest_of(body.decode(errors="replace").strip())

    async def _get(self, path: str, headers: dict[str, str], *, max_bytes: int) -> tuple[httpx.Response, bytes]:
        """The answer and its body. Raises SourceUnavailableError."""
        try:
            async with self._http.stream(
                "GET", f"{self._url}/{path}", headers=headers | self._authorization()
            ) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > max_bytes:
                        raise SourceUnavailableError(f"GET {path}: the answer is longer than {max_bytes} bytes")
                return response, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise SourceUnavailableError(f"GET {path}: {str(e) or type(e).__name__}") from e

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise SourceUnavailableError(f"the token file cannot be read: {e}") from e
        return {"Authorization": f"Bearer {token}"}


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as e:
        raise SourceDataError(f"the document is not JSON: {e}") from e


def _id_of(tenant: Any) -> str:
    return str(tenant.get("id") if isinstance(tenant, dict) else tenant)[:_SHOWN]


def _is_json(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return bool(media_type == "application/json" or media_type.endswith("+json"))


def _unusable(response: httpx.Response, body: bytes) -> SourceUnavailableError:
    kind = response.headers.get("content-type", "no content type")
    shown = " ".join(body[:_SHOWN].decode(errors="replace").split())
    return SourceUnavailableError(f"GET {response.url.path}: {response.status_code}, {kind}: {shown}")


def _names(body: bytes, account: AccountId) -> bool:
    """Whether a 404 is about this account, and not about a path that nobody serves."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("account") == account
