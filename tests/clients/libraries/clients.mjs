// One npm library at a time watches a job, as docs/clients.md says that it is used: node clients.mjs LIBRARY URL JOB
// TOKEN TICKET. Prints a line of JSON for each event, and one for the end; then nothing keeps the process alive.
import { createHash } from "node:crypto";
import { createParser } from "eventsource-parser";

const [library, url, job, token, ticket] = process.argv.slice(2);
const stream = `${url}/api/jobs/${job}/events/stream`;
const socket = `${url.replace("http", "ws")}/api/jobs/${job}/events/ws`;
const headers = { Authorization: `Bearer ${token}` };
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

function say(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function saw(id, fields) {
  say({ id, n: fields.n, digest: createHash("sha256").update(fields.text ?? "").digest("hex") });
}

// Events have no name, control frames have one.
function listen(source) {
  source.onmessage = (message) => saw(message.lastEventId, JSON.parse(message.data));
  source.addEventListener("end", (message) => {
    source.close();
    say({ end: JSON.parse(message.data).status });
  });
}

// A frame of a WebSocket; returns true for the end.
function judge(text, state) {
  const { id, ...frame } = JSON.parse(text);
  state.cursor = id ?? (frame.type === "hello" || frame.type === "state" ? frame.position : undefined) ?? state.cursor;
  if (id !== undefined && frame.n !== undefined) saw(id, frame);
  if (id === undefined && frame.type === "end") say({ end: frame.status });
  return id === undefined && frame.type === "end";
}

const resumed = (state, more = {}) =>
  `${socket}?${new URLSearchParams({ ...more, ...(state.cursor ? { last_event_id: state.cursor } : {}) })}`;

// A WebSocket that does not come back by itself: 10 lines.
async function loop(open) {
  const state = {};
  for (;;) {
    const code = await new Promise((resolve) => {
      const one = open(state);
      one.onmessage = ({ data }) => judge(data, state);
      one.onclose = (event) => resolve(event.code);
      one.onerror = () => resolve(1006); // undici says no close where nobody listens
    });
    if (code === 1000 || code === 4404) return;
    await sleep(code === 4013 ? 5 : 0.5);
  }
}

// One that does, for ever: it is closed at the end.
function endless(Kind, options) {
  const state = {};
  const one = new Kind(() => resumed(state, { ticket }), [], options);
  one.addEventListener("message", ({ data }) => judge(data, state) && one.close());
}

const LIBRARIES = {
  async "eventsource 2"() {
    const { default: EventSource } = await import("eventsource2");
    listen(new EventSource(stream, { headers }));
  },
  async "eventsource 4"() {
    const { EventSource } = await import("eventsource4");
    const withToken = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } });
    let cursor = "";
    const open = () => {
      const source = new EventSource(cursor ? `${stream}?last_event_id=${cursor}` : stream, { fetch: withToken });
      listen(source);
      const { onmessage } = source;
      source.onmessage = (message) => ((cursor = message.lastEventId), onmessage(message));
      source.onerror = async () => {
        if (source.readyState !== EventSource.CLOSED) return; // it comes back by itself, but not after a 502
        await sleep(1);
        open();
      };
      source.addEventListener("end", () => (source.onerror = null));
    };
    open();
  },
  async "undici EventSource"() {
    const { EventSource } = await import("undici");
    const alive = setInterval(() => {}, 1000); // its retry timer does not keep the process alive
    const source = new EventSource(`${stream}?ticket=${ticket}`);
    listen(source);
    source.addEventListener("end", () => clearInterval(alive));
  },
  async "event-source-polyfill"() {
    const { EventSourcePolyfill } = (await import("event-source-polyfill")).default;
    listen(new EventSourcePolyfill(stream, { headers, heartbeatTimeout: 45_000 }));
  },
  async "@microsoft/fetch-event-source"() {
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    globalThis.window = { fetch, setTimeout, clearTimeout };
    const { fetchEventSource } = await import("@microsoft/fetch-event-source");
    class Again extends Error {}
    let isOver = false;
    await fetchEventSource(stream, {
      headers,
      async onopen(response) {
        if (response.status === 404 || response.status === 204) throw new Error(`over: ${response.status}`);
        if (!response.ok) throw new Again();
      },
      onmessage({ event, id, data }) {
        if (event === "end") {
          isOver = true;
          say({ end: JSON.parse(data).status });
        } else if (!event) saw(id, JSON.parse(data));
      },
      onclose() {
        if (!isOver) throw new Again(); // it resolves at a clean close, as after a deploy
      },
      onerror(error) {
        if (error.message?.startsWith("over")) throw error;
        return 1000;
      },
    });
  },
  async "eventsource-client"() {
    const { createEventSource } = await import("eventsource-client");
    const source = createEventSource({ url: stream, headers });
    for await (const { event, id, data } of source) {
      if (event === "end") {
        source.close();
        say({ end: JSON.parse(data).status });
        return;
      }
      if (!event) saw(id, JSON.parse(data));
    }
  },
  async "eventsource-parser"() {
    let cursor = "";
    let status;
    while (status === undefined) {
      try {
        const answer = await fetch(stream, { headers: { ...headers, ...(cursor && { "Last-Event-ID": cursor }) } });
        if (answer.status === 204 || answer.status === 404) return;
        const parser = createParser({
          onEvent({ event, id, data }) {
            cursor = id ?? cursor;
            if (event === "end") status = JSON.parse(data).status;
            else if (!event) saw(id, JSON.parse(data));
          },
        });
        if (answer.ok) for await (const text of answer.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
      } catch {
        // the connection broke
      }
      if (status === undefined) await sleep(0.5);
    }
    say({ end: status });
  },
  async ws() {
    const { WebSocket } = await import("ws");
    await loop((state) => new WebSocket(resumed(state), { headers }));
  },
  async "undici WebSocket"() {
    const { WebSocket } = await import("undici");
    await loop((state) => new WebSocket(resumed(state), { headers }));
  },
  async "reconnecting-websocket"() {
    const { default: ReconnectingWebSocket } = await import("reconnecting-websocket");
    const { WebSocket } = await import("ws");
    endless(ReconnectingWebSocket.default ?? ReconnectingWebSocket, { WebSocket });
  },
  async partysocket() {
    const { WebSocket } = await import("ws");
    const { WebSocket: Reconnecting } = await import("partysocket");
    endless(Reconnecting, { WebSocket });
  },
};

await LIBRARIES[library]();
