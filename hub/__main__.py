"""Makes `python -m hub` the same command as `push-hub`."""

from hub.cli import main

main()
