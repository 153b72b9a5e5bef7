"""`push-hub serve` on uvicorn's own protocol classes, which cannot hand over: the portable wire."""

from __future__ import annotations

import hub.serve.server
from hub.cli import main

_config = hub.serve.server.config


def portable(*arguments, **more):
    config = _config(*arguments, **more)
    config.http, config.ws = "httptools", "websockets-sansio"
    return config


if __name__ == "__main__":
    hub.serve.server.config = portable
    main()
