// Peer: Socket.IO 4 on ws. One Redis subscription, one room per job.
// Tuned as its documentation says: WebSocket only, perMessageDeflate and httpCompression off, no client
// files, the first HTTP request of each client is released, and no Ping is due during a run. Events are
// emitted as objects, as its users do it; the adapter encodes each of them once for the whole room. No login.
// Usage: node socketio.cjs PORT REDIS_URL. Viewers watch /socket.io/?EIO=4&transport=websocket&job=JOB.
"use strict";
const http = require("node:http");
const { createClient } = require("redis");
const { Server } = require("socket.io");

const [port, url] = process.argv.slice(2);
const server = http.createServer();
const io = new Server(server, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  pingInterval: 600_000,
});
io.on("connection", (socket) => {
  socket.join(socket.handshake.query.job);
  socket.conn.request = null;
});

(async () => {
  const client = createClient({ url });
  client.on("error", console.error);
  await client.connect();
  await client.pSubscribe("job:*:events", (body, channel) => {
    io.to(channel.split(":")[1]).emit("event", JSON.parse(body));
  });
  server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
})();
