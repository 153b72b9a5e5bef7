"""`python -m hub` is `push-hub`."""

from hub.cli import main

main()
