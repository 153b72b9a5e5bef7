"""The lines of the log."""

from __future__ import annotations

import json
import logging
import sys

from hub.serve.logs import JsonFormatter


def test_a_traceback_is_one_line_of_json_without_secrets():
    secret = "s3cret-" * 5
    formatter = JsonFormatter("%(message)s", frozenset({secret}))
    try:
        raise ValueError(f"bad {secret}")
    except ValueError:
        record = logging.LogRecord(
            "hub", logging.ERROR, "x.py", 1, "it failed: %s", (secret,), sys.exc_info()
        )
    line = formatter.format(record)
    assert "\n" not in line
    assert secret not in line
    said = json.loads(line)
    assert said["message"] == "it failed: ***"
    assert said["traceback"].endswith("ValueError: bad ***")
    assert said["level"] == "error"
    assert said["time"].endswith("+00:00")
