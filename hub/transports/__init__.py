"""How frames reach a client: SSE, WebSocket, dashboard, page; portable and fast wires. Imports `engine`."""
