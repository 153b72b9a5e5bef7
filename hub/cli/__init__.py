"""The command line, a file per group of commands; it may import every other room.

Invariant: an error of the user's or of the environment is one line on stderr (one for each wrong setting),
with an exit code that is not 0.
"""

from __future__ import annotations

import sys

from pydantic import ValidationError

from hub.bench import bench, capacity
from hub.cli import doctor, events, operating, schema, serving, setup, tokens, top
from hub.cli.terminal import app, err, fail
from hub.errors import HubError

__all__ = ["app", "doctor", "events", "main", "operating", "schema", "serving", "setup", "tokens", "top"]

app.command()(bench)
app.command()(capacity)


def main() -> None:
    """Run the command line. Exit code 2: a setting is invalid; 1: any other HubError."""
    sys.path.insert(0, "")  # as uvicorn does: modules that HUB_CATALOGUE names are found where one stands
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = "HUB_" + "_".join(map(str, problem["loc"])).upper()
            err.print(f"push-hub: {name}: {problem['msg']}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except HubError as error:
        fail(str(error))
