"""A viewer in Python: the client of the hub's WebSocket. Of the server it imports `errors` only."""
