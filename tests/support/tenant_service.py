"""A tenant service as `service/registry/http.py` asks for: a real HTTP server on 127.0.0.1, with a tenant file behind it."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from service.registry.document import digest_of, everywhere, tenants_by_account, written
from service.registry.schema import TenantFile

Answer = Callable[[web.BaseRequest], web.StreamResponse]


@dataclass
class TenantService:
    """`answers` override what a path is answered; `statuses` counts what was answered; `tokens` are those of the requests."""

    documents: dict[str, Any] = field(default_factory=dict)
    everything: dict[str, Any] | None = None
    version: str | None = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    tokens: list[str | None] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/tenants"

    def store(self, tenant_file: TenantFile) -> None:
        shared = everywhere(tenant_file)
        default = [tenant for tenant in tenant_file.tenants if tenant.id == tenant_file.default_tenant]
        self.documents = {
            account: shared
            | {"tenants": [written(t) for t in tenants] + [written(t) for t in default if t not in tenants]}
            for account, tenants in tenants_by_account(tenant_file)
        }
        self.everything = shared | {"tenants": [written(tenant) for tenant in tenant_file.tenants]}
        self.version = digest_of(self.documents)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        path = request.path.removeprefix("/tenants/")
        response = self.answers.get(path, self._healthy)(request)
        self.statuses[response.status] += 1
        return response

    def _healthy(self, request: web.BaseRequest) -> web.Response:
        kind, _, account = request.path.removeprefix("/tenants/").partition("/")
        if kind == "version" and self.version is not None:
            return web.Response(text=self.version)
        if kind == "tenants" and self.everything is not None:
            return web.json_response(self._page(request))
        document = self.documents.get(account) if kind == "accounts" else None
        if document is None:
            return web.json_response({"title": "no tenant lists the account", "account": account}, status=404)
        etag = f'"{digest_of(document)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=json.dumps(document), content_type="application/json", headers={"ETag": etag})

    def _page(self, request: web.BaseRequest) -> dict[str, Any]:
        assert self.everything is not None
        start, limit = int(request.query.get("after", "0")), int(request.query["limit"])
        tenants = self.everything["tenants"]
        page = self.everything | {"tenants": tenants[start : start + limit]}
        return page | ({"next": str(start + limit)} if start + limit < len(tenants) else {})


@asynccontextmanager
async def tenant_service() -> AsyncIterator[TenantService]:
    service = TenantService()
    runner = web.ServerRunner(web.Server(service.handle, access_log=None), shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        service.port = runner.addresses[0][1]
        yield service
    finally:
        await runner.cleanup()
