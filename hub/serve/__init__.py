"""Runs the application on uvicorn: sockets, workers, shutdown. Imports `web` and the rows below it."""
