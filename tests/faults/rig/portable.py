"""`push-hub serve` with uvicorn's own protocols, which cannot hand a socket over: the portable wire in a real process."""

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
