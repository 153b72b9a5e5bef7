"""`GET /hub.js`: the browser's client, the same for everybody."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from hub.transports.headers import SAFE

router = APIRouter()


@cache
def hub_js() -> str:
    """The text of hub.js."""
    return files("hub").joinpath("static", "client", "hub.js").read_text("utf-8")


@cache
def _etag() -> str:
    return f'"{hashlib.sha256(hub_js().encode()).hexdigest()[:16]}"'


@router.get("/hub.js", include_in_schema=False)
async def get_hub_js(request: Request) -> Response:
    """An ES module: `import { watch } from "/hub.js"`."""
    headers = {
        **SAFE,
        "Cross-Origin-Resource-Policy": "cross-origin",
        "ETag": _etag(),
        "Cache-Control": "no-cache",  # a browser asks each time, and gets 304
    }
    if _etag() in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(hub_js(), headers=headers, media_type="text/javascript")
