"""The routes of the console: the page, and the modules and the style that it loads.

They lie in the wheel. The page's policy forbids all other sources, and everything inline.
"""

# No postponed annotations here: FastAPI could not resolve those of local functions.
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from aoti_serve.gateway.http.responses import READ

_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),  # a token is typed into it
    ]
)
_GUARDS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_KEEP = {"cache-control": "public, max-age=31536000, immutable"}  # the folder's name changes with what is in it
_DIGEST_DIGITS = 16


def console_routes() -> APIRouter:
    """`/console`, and the files that it loads from a folder that is named by their digest."""
    routes = APIRouter()
    found = {file.name: file.read_bytes() for file in files(__package__).joinpath("page").iterdir() if file.is_file()}
    digest = sha256(b"".join(found[name] for name in sorted(found))).hexdigest()[:_DIGEST_DIGITS]
    # Relative: a proxy may have put a prefix before all routes.
    page = found.pop("index.html").replace(b"{folder}", f"console/{digest}".encode())

    @routes.api_route("/console", methods=READ)
    async def console() -> Response:
        return Response(page, media_type="text/html", headers=_GUARDS | {"cache-control": "no-store"})

    for name, content in found.items():
        if (kind := _KINDS.get(name.rpartition(".")[2])) is not None:
            routes.add_api_route(f"/console/{digest}/{name}", _file(content, kind), methods=READ)
    return routes


def _file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_GUARDS | _KEEP)

    return file
