"""uvicorn: sockets, worker processes and an orderly end. Imports `web` and the rows below it."""
