"""`GET /docs`: the description as one page that loads nothing, runs nothing, and needs no script.

FastAPI's own pages load theirs from a content delivery network. A page on the origin that hands out
tokens must not run what somebody else can change.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import Any

from starlette.responses import HTMLResponse, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d0d7de; padding-bottom: .3rem; }
h3 { font-family: ui-monospace, monospace; font-size: 1rem; margin-bottom: 0; }
h3 b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { border: 1px solid #d0d7de; padding: .2rem .6rem; text-align: left; vertical-align: top; }
code { font-family: ui-monospace, monospace; background: #f6f8fa; padding: 0 .2rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117; } code { background: #161b22; }
  td, th, h2 { border-color: #30363d; } a { color: #6cb6ff; }
}
"""

_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CSP = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"
)


def docs_response(description: dict[str, Any]) -> Response:
    """The page of an OpenAPI description, under a policy that allows its style sheet alone."""
    page = "".join(_page(description))
    return HTMLResponse(page, headers={"content-security-policy": CSP})


def _page(description: dict[str, Any]) -> Iterator[str]:
    title = escape(description["info"]["title"])
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
    for paragraph in description["info"]["description"].split("\n\n"):
        yield f"<p>{escape(paragraph)}</p>"
    yield '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
    schemas = description["components"]["schemas"]
    tag = ""
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            yield from _operation(method, path, operation, schemas)
    yield "</body></html>"


def _operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> Iterator[str]:
    yield f"<h3><b>{escape(method.upper())}</b> {escape(path)}</h3>"
    yield f"<p>{escape(operation.get('summary', ''))}</p>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        fields = content["schema"]["properties"]
        needed = content["schema"].get("required", [])
        names = ", ".join(
            f"<code>{escape(name)}</code>{' (needed)' if name in needed else ''}" for name in fields
        )
        yield f"<p>A form, <code>{escape(kind)}</code>: {names}.</p>"
    yield "<table><tr><th>status</th><th>answer</th></tr>"
    for status, answer in operation["responses"].items():
        yield f"<tr><td>{escape(status)}</td><td>{_answer(answer, schemas)}</td></tr>"
    yield "</table>"


def _answer(answer: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    if name not in schemas:
        return escape(answer.get("description", ""))
    fields = schemas[name].get("properties", {})
    return f"JSON: {', '.join(f'<code>{escape(one)}</code>' for one in fields)}"
