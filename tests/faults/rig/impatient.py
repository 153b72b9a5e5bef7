"""`push-hub serve` with shorter time limits, for tests that wait until one is over.

They are set like settings: `start_hub(url, program=IMPATIENT, impatient_tcp=3000)` in milliseconds,
`impatient_head` in seconds, `impatient_portable=1` as in portable.py.
"""

from __future__ import annotations

import os

import hub.serve.server
from hub.cli import main
from hub.transports import uvicorn_limits
from tests.faults.rig.portable import portable

IMPATIENT = "tests.faults.rig.impatient"

if __name__ == "__main__":
    hub.serve.server.TCP_USER_TIMEOUT = int(
        os.environ.get("HUB_IMPATIENT_TCP", hub.serve.server.TCP_USER_TIMEOUT)
    )
    uvicorn_limits.HEAD_TIMEOUT = float(os.environ.get("HUB_IMPATIENT_HEAD", uvicorn_limits.HEAD_TIMEOUT))
    if os.environ.get("HUB_IMPATIENT_PORTABLE"):
        hub.serve.server.config = portable
    main()
