"""`push-hub serve` with a page of its own at /api/page, whose text is in PUSH_HUB_PAGE: a page that is only intercepted counts as
another network's, and Chromium opens no WebSocket from it."""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

import hub.web.app
from hub.cli import main
from hub.settings import Settings

PAGED = "tests.faults.rig.paged"

if __name__ == "__main__":
    create = hub.web.app.create_app

    def with_page(settings: Settings | None = None) -> FastAPI:
        app = create(settings)
        app.get("/api/page")(lambda: HTMLResponse(os.environ["PUSH_HUB_PAGE"]))
        return app

    hub.web.app.create_app = with_page
    main()
