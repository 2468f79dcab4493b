"""Two pages for people: an index, and the API's documentation out of its own OpenAPI document.

FastAPI's documentation page loads its scripts from a CDN, which is a blank page in a closed network. These load nothing at all.
"""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.http.problems import ProblemType

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc } h3 { margin-bottom: .25rem } dt { font-weight: 600; margin-top: .5rem }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { background: #f5f5f5; padding: .75rem; overflow-x: auto }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0 }
:target { background: #fff3c4 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } pre { background: #262626 } a { color: #8ab4f8 }
:target { background: #4a3f10 } }
"""
_HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def page_routes() -> APIRouter:
    """`/` and `/docs`."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index(request: Request) -> HTMLResponse:
        links = {
            "/docs": "what can be asked here, and every error explained",
            "/openapi.json": "the same for programs",
            "/livez": "whether the service works",
            "/readyz": "whether it takes requests",
            "/metrics": "its metrics, for Prometheus",
        }
        items = "".join(f'<dt><a href="{path}">{path}</a></dt><dd>{text}</dd>' for path, text in links.items())
        return _page(request, f"<dl>{items}</dl>")

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return _page(request, _documentation(request.app.openapi()))

    return routes


def _page(request: Request, body: str) -> HTMLResponse:
    title = f"{request.app.title} {request.app.version}"
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(request.app.description)}</p>{body}</html>",
        headers=_HEADERS,
    )


def _documentation(document: Mapping[str, Any]) -> str:
    operations = "".join(
        _operation(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    problems = "".join(
        f'<h3 id="{p.slug}">{escape(p.title)}</h3><p><code>{p.status}</code> {_text(p.advice)}</p>' for p in ProblemType
    )
    schemas = "".join(
        f"<h3>{escape(name)}</h3>{_json(schema)}" for name, schema in document["components"]["schemas"].items()
    )
    return (
        f"<h2>Operations</h2>{operations}<h2>Problems</h2>"
        f"<p>Every error is a problem document (RFC 9457, <code>application/problem+json</code>).</p>{problems}"
        f"<h2>Schemas</h2>{schemas}"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (f"{p['name']} ({p['in']})", p.get("description", "")) for p in operation.get("parameters", ())
    ]  # fmt: skip
    responses = [(status, response["description"]) for status, response in sorted(operation["responses"].items())]
    examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    return (
        f"<h3><code>{method} {escape(path)}</code></h3><p>{_text(operation.get('description', ''))}</p>"
        + "".join(
            f"<p>Needs a bearer token with the scope <code>{scope}</code>.</p>"
            for requirement in operation.get("security", ())
            for [scope] in requirement.values()
        )
        + _table(parameters)
        + "".join(f"<p>{escape(e['summary'])}:</p>{_json(e['value'])}" for e in examples.values())
        + _table(responses)
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{escape(name)}<td>{_text(words)}" for name, words in rows) + "</table>"


def _text(words: str) -> str:
    """Plain text with `code` in backticks, as descriptions are written."""
    parts = escape(words).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
