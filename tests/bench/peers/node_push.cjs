// Peer: bare node, no framework. One Redis subscription, a Set of sockets per job.
// Tuned as far as node allows: an event is framed once and the same Buffer is written to each raw socket
// (ws.send and response.write would frame it again for each viewer); events that arrive together are one
// write per viewer, as in the hub; perMessageDeflate, clientTracking and Nagle are off. No heartbeat,
// backpressure, resume or login.
// Usage: node node_push.cjs PORT REDIS_URL. Viewers watch /sse/JOB or /ws/JOB.
"use strict";
const http = require("node:http");
const { createClient } = require("redis");
const { WebSocketServer, Sender } = require("ws");

const [port, url] = process.argv.slice(2);
const rooms = new Map(); // "sse/JOB" or "ws/JOB" -> {sockets, frames to be written at the end of this turn}

function room(name) {
  let found = rooms.get(name);
  if (!found) rooms.set(name, (found = { sockets: new Set(), frames: [] }));
  return found;
}

function enter(name, socket) {
  const { sockets } = room(name);
  sockets.add(socket);
  socket.setNoDelay(true);
  socket.on("error", () => {});
  socket.once("close", () => sockets.delete(socket));
}

function push(name, frame) {
  const here = rooms.get(name);
  if (!here || here.sockets.size === 0) return;
  if (here.frames.push(frame) > 1) return;
  setImmediate(() => {
    const payload = Buffer.concat(here.frames);
    here.frames = [];
    for (const socket of here.sockets) socket.write(payload);
  });
}

let number = 0;
function sse(body) {
  const event = `id: 1732345000123-${number++}\ndata: ${body}\n\n`;
  return Buffer.from(`${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`); // one chunk of the response
}

function websocket(body) {
  const options = { fin: true, opcode: 1, mask: false, readOnly: true, rsv1: false };
  return Buffer.concat(Sender.frame(body, options));
}

const server = http.createServer((request, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  response.write(": welcome\n\n");
  enter(request.url.slice(1), response.socket);
});
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, clientTracking: false });
server.on("upgrade", (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (client) => {
    client.on("error", () => {});
    enter(request.url.slice(1), socket);
  });
});

(async () => {
  const client = createClient({ url });
  client.on("error", console.error);
  await client.connect();
  await client.pSubscribe(
    "job:*:events",
    (body, channel) => {
      const job = channel.toString().split(":")[1];
      if (rooms.has(`sse/${job}`)) push(`sse/${job}`, sse(body));
      if (rooms.has(`ws/${job}`)) push(`ws/${job}`, websocket(body));
    },
    true, // messages are Buffers, which need no decoding
  );
  server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
})();
