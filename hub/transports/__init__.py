"""How frames reach a client: SSE, WebSocket, dashboard, page; the portable wire and the fast one. Imports `engine`."""
