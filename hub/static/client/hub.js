// hub.js: watches jobs of push-hub. One file, no dependency. The contract is docs/protocol.md.
//
//   import { watch } from "/hub.js";
//   for await (const event of watch("build-42")) console.log(event.type, event);
//
// Every event comes once and in order, over reconnects, deploys and transports, or a `gap` or `resync` says what is
// missing. A watch ends by itself: at the job's end, or with an error that a page can show.

/** Milliseconds that a stream may take to its first frame; a proxy that buffers shows none at all. */
const OPENING = 10_000;
/** Milliseconds of a long poll, which needs no frame in between. */
const POLL_WAIT = 25;
/** Milliseconds: the shortest and the longest mean wait before a reconnect. */
const SHORTEST = 500, LONGEST = 30_000;
/** Events that wait for an iterator that does not take them; beyond it the watch fails, rather than the page. */
const MOST_WAITING = 10_000;

const CONTROL = new Set(["hello", "heartbeat", "gap", "resync", "state", "reconnect", "end", "pong", "error",
  "subscribed", "unsubscribed", "authenticated"]);

/** Why a watch failed. `code`: "not_found", "unauthorized", "too_slow", "unsupported". */
export class WatchError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "WatchError";
    this.code = code;
  }
}

// --- pure

/** Returns true if the event id `a` comes after `b`, or is of another numbering. */
export function isNews(a, b) {
  if (b === null) return true;
  const [epoch, seq] = a.split("-"), [before, last] = b.split("-");
  return epoch !== before || BigInt(seq) > BigInt(last);
}

/** Milliseconds before the `attempt`-th reconnect (from 0): exponential, and jittered over its upper half. */
export function backoff(attempt, { floor = 0, random = Math.random } = {}) {
  const ceiling = Math.min(LONGEST, SHORTEST * 2 ** attempt);
  return floor + ceiling / 2 + (random() * ceiling) / 2;
}

/** An incremental parser of text/event-stream (the HTML standard, 9.2.6). Returns a function that takes text and
 * returns messages: `{event, data, id}`, where `id` is the last one so far. */
export function eventStream() {
  let rest = "", id = "", event = "", data = [], isFirst = true;
  return (text) => {
    if (isFirst && text) {
      isFirst = false;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    const messages = [];
    rest += text;
    for (;;) {
      const at = rest.search(/\r\n|\r(?!$)|\n/); // a CR at the end may be half of a CRLF
      if (at < 0) return messages;
      const line = rest.slice(0, at);
      rest = rest.slice(at + (rest[at] === "\r" && rest[at + 1] === "\n" ? 2 : 1));
      if (line === "") {
        if (data.length) messages.push({ event: event || "message", data: data.join("\n"), id });
        event = "";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") data.push(value);
      else if (name === "event") event = value;
      else if (name === "id" && !value.includes("\0")) id = value;
    }
  };
}

/** The state of a job of which nothing is known yet. */
export const UNKNOWN = Object.freeze({
  status: null, attempt: null, stages: [], progress: null, snapshot: null, documentation: {}, ended: false,
});

/** The state after an event of the catalogue, of `state` or of `end`. Returns the same object if nothing changed. */
export function fold(state, event) {
  switch (event.type) {
    case "build.stage.started":
      return { ...withStatus(state, event), stages: withStage(state.stages, event.stage,
        { name: event.stage, done: false, narration: event.narration ?? null, duration: null }) };
    case "build.stage.completed":
      return { ...withStatus(state, event), stages: withStage(state.stages, event.stage,
        { name: event.stage, done: true, duration: event.duration ?? null }) };
    case "snapshot.updated":
      return { ...withStatus(state, event), snapshot: event.url ?? null };
    case "documentation.updated":
      return { ...withStatus(state, event), documentation: { ...state.documentation, [event.section]: event.content } };
    case "state": { // it replaces what is missing; of stages and sections it has only the last one
      const last = Object.values(event.last ?? {}).reduce(fold, state);
      return { ...last, status: event.status ?? last.status, attempt: event.attempt ?? last.attempt };
    }
    case "hello":
      return event.attempt === undefined || event.attempt === state.attempt ? state
        : { ...(state.attempt === null ? state : UNKNOWN), attempt: event.attempt };
    case "end":
      return { ...state, status: event.status ?? state.status, ended: true };
    default: {
      const next = withStatus(state, event);
      return typeof event.progress === "number" ? { ...next, progress: event.progress } : next;
    }
  }
}

function withStatus(state, event) {
  return typeof event.status === "string" ? { ...state, status: event.status } : state;
}

function withStage(stages, name, news) {
  const at = stages.findIndex((stage) => stage.name === name);
  return at < 0 ? [...stages, { narration: null, ...news }]
    : stages.map((stage, index) => (index === at ? { ...stage, ...news, narration: news.narration ?? stage.narration } : stage));
}

// --- one connection at a time

/** What a transport reports: `frame(event)` for each frame; it resolves to why it ended, `{status, code, after}`. */
const TRANSPORTS = {
  websocket(url, { frame, signal }) {
    return new Promise((resolve) => {
      const socket = new WebSocket(url.replace(/^http/, "ws"));
      signal.addEventListener("abort", () => { socket.close(); resolve({}); }, { once: true });
      socket.onmessage = ({ data }) => frame(JSON.parse(data));
      socket.onclose = ({ code }) => resolve({ code });
    });
  },

  async sse(url, { frame, signal, headers }) {
    const answer = await fetch(url, { signal, headers, credentials: "include", cache: "no-store" });
    const after = retryAfter(answer);
    if (answer.status !== 200 || !answer.body) return { status: answer.status, after };
    const parse = eventStream(), decoder = new TextDecoder(), reader = answer.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return {};
      for (const { event, data, id } of parse(decoder.decode(value, { stream: true }))) {
        let fields;
        try { fields = JSON.parse(data); } catch { fields = null; }
        if (event !== "message") frame({ type: event, ...fields });
        else if (fields && typeof fields === "object" && !Array.isArray(fields)) frame({ ...fields, id: id || undefined });
        else frame({ type: "raw", data, id: id || undefined });
      }
    }
  },

  async poll(url, { frame, signal, headers, cursor }) {
    const answer = await fetch(url(cursor()), { signal, headers, credentials: "include", cache: "no-store" });
    if (answer.status !== 200) return { status: answer.status, after: retryAfter(answer) };
    const page = await answer.json();
    frame({ type: "hello", heartbeat_ms: 2 * POLL_WAIT * 1000, retry_ms: 0, position: null });
    for (const one of [...page.notices, ...page.events]) frame(one);
    if (page.ended) frame({ type: "end", status: page.events.at(-1)?.status ?? null });
    else frame({ type: "heartbeat", position: page.position });
    return { after: 0 };
  },
};

function retryAfter(answer) {
  const seconds = Number(answer.headers.get("retry-after"));
  return seconds > 0 ? seconds * 1000 : undefined;
}

/**
 * Watches a job. The result is an async iterator of events, an EventTarget ("event", an event's type, "gap", "resync",
 * "change", "end", "failed") and a store (`subscribe`, `getSnapshot`) with the job's `state`.
 */
export function watch(job, options = {}) {
  return new Watch(job, options);
}

export class Watch extends EventTarget {
  #options; #job; #base; #cursor; #state = UNKNOWN; #status = "connecting"; #error = null;
  #names; #at = 0; #attempt = 0; #fruitless = 0; #renewed = false; #closed = false; #pause = null;
  #waiting = null; #wake = null; #listeners = new Set(); #heard = 0; #heartbeat = OPENING; #abort = null;
  #shares; #tell = null;

  constructor(job, { url = "", transport = "auto", types, from, after = null, token, renew, reduce = fold, share = true } = {}) {
    super();
    this.#job = job;
    this.#options = { types, from, token, renew, reduce };
    this.#base = new URL(url || "/", globalThis.location?.href).href.replace(/\/$/, "");
    this.#cursor = after;
    // A browser sends no header with a WebSocket, so a token goes by fetch.
    const all = token || typeof WebSocket === "undefined" ? ["sse", "poll"] : ["websocket", "sse", "poll"];
    this.#names = transport === "auto" ? all : [transport];
    if (transport !== "auto" && !TRANSPORTS[transport]) throw new WatchError("unsupported", `expected a transport, got ${transport}`);
    if (transport === "websocket" && token) throw new WatchError("unsupported", "a WebSocket takes a cookie or a ticket, no token");
    // Tabs that watch the same with the same cookie share one connection.
    this.#shares = share && transport === "auto" && !token && from === undefined && after === null
      && Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel);
    this.done = this.#run();
    this.done.catch(() => {}); // who awaits it learns; nobody has to
  }

  /** The job's state, folded from its events. A new object for each change. */
  get state() { return this.#state; }
  /** "connecting", "live", "waiting" (for a reconnect), "ended", "failed" or "closed". */
  get status() { return this.#status; }
  /** Why it failed, or null. */
  get error() { return this.#error; }
  /** The cursor: the `after` of a later watch. */
  get position() { return this.#cursor; }
  /** "websocket", "sse" or "poll". */
  get transport() { return this.#names[this.#at]; }

  // For React: useSyncExternalStore(job.subscribe, job.getSnapshot).
  subscribe = (listener) => { this.#listeners.add(listener); return () => this.#listeners.delete(listener); };
  getSnapshot = () => this.#state;

  /** Stop watching. */
  close() { this.#finish("closed"); }

  async *[Symbol.asyncIterator]() {
    this.#waiting ??= [];
    try {
      for (;;) {
        while (this.#waiting.length) yield this.#waiting.shift();
        if (this.#error) throw this.#error;
        if (this.#closed) return;
        await new Promise((wake) => { this.#wake = wake; });
      }
    } finally {
      this.close(); // the loop was left
    }
  }

  async #run() {
    await null; // listeners and an iterator come first
    this.#waiting ??= [];
    const look = () => { if (Date.now() - this.#heard > 2 * this.#heartbeat) this.#abort?.abort(); this.#pause?.(); };
    for (const name of ["online", "pageshow"]) globalThis.addEventListener?.(name, look);
    globalThis.document?.addEventListener("visibilitychange", look);
    try {
      await (this.#shares ? this.#share() : this.#stream());
    } finally {
      for (const name of ["online", "pageshow"]) globalThis.removeEventListener?.(name, look);
      globalThis.document?.removeEventListener("visibilitychange", look);
    }
    if (this.#error) throw this.#error;
    return this.#state;
  }

  async #stream() {
    while (!this.#closed) {
      const end = await this.#connect();
      if (!this.#closed) await this.#judge(end);
    }
  }

  /** The first tab leads: it has the connection, and tells the others each frame. When it goes, the next one leads. */
  async #share() {
    const name = `push-hub ${this.#base} ${this.#job} ${this.#options.types ?? ""}`;
    const channel = new BroadcastChannel(name), waiting = new AbortController(), early = [];
    let isCaughtUp = false, leading = null;
    const lead = () => {
      this.#tell = (frame) => channel.postMessage(frame);
      leading = this.#stream();
      this.#pause?.();
      return leading;
    };
    channel.onmessage = ({ data }) => {
      this.#heard = Date.now();
      if (leading || this.#closed) return;
      if (isCaughtUp) this.#take(data);
      else early.push(data);
    };
    try {
      if (await navigator.locks.request(name, { ifAvailable: true }, async (lock) => lock && (await lead(), true))) return;
      navigator.locks.request(name, { signal: waiting.signal }, lead).catch(() => {}); // until it is our turn
      if (await this.#catchUp(waiting.signal)) {
        isCaughtUp = true;
        early.forEach((frame) => this.#take(frame));
        this.#heard = Date.now();
        while (!leading && !this.#closed && Date.now() - this.#heard < 2 * this.#heartbeat + OPENING) await this.#sleep(1000);
      }
      if (!leading) waiting.abort(); // the leader is silent, or there is no hub: a connection of our own
      await (leading ?? this.#stream());
    } finally {
      waiting.abort();
      channel.close();
      this.#tell = null;
    }
  }

  /** Reads what is there already, page by page. Returns false if that did not work. */
  async #catchUp(signal) {
    const options = { frame: (frame) => this.#take(frame), signal, headers: {}, cursor: () => this.#cursor };
    try {
      for (let before; !this.#closed && before !== this.#cursor;) {
        before = this.#cursor;
        const { status } = await TRANSPORTS.poll((cursor) => this.#url("poll", cursor, 0), options);
        if (status) return false;
      }
      return true;
    } catch {
      return false;
    }
  }

  async #connect() {
    const abort = this.#abort = new AbortController();
    const attempt = { frames: 0, after: undefined };
    this.#heard = Date.now();
    this.#heartbeat = OPENING / 2; // until `hello` says more
    const watchdog = setInterval(() => { if (Date.now() - this.#heard > 2 * this.#heartbeat) abort.abort(); }, 1000);
    const frame = (event) => {
      if (abort.signal.aborted || this.#closed) return;
      attempt.frames += 1;
      this.#tell?.(event);
      this.#heard = Date.now();
      if (event.type === "reconnect" && event.id === undefined) attempt.after = event.after_ms;
      else this.#take(event);
    };
    try {
      const name = this.transport, headers = await this.#headers();
      const url = name === "poll" ? (cursor) => this.#url(name, cursor) : this.#url(name, this.#cursor);
      const end = await TRANSPORTS[name](url, { frame, signal: abort.signal, headers, cursor: () => this.#cursor });
      return { ...attempt, ...end, after: attempt.after ?? end.after };
    } catch {
      return attempt; // the network, or the watchdog
    } finally {
      clearInterval(watchdog);
      abort.abort();
    }
  }

  #url(name, cursor, wait = cursor ? POLL_WAIT : 0) {
    const path = { websocket: "events/ws", sse: "events/stream", poll: "events" }[name];
    const url = new URL(`${this.#base}/api/jobs/${encodeURIComponent(this.#job)}/${path}`);
    if (cursor) url.searchParams.set(name === "poll" ? "after" : "last_event_id", cursor);
    if (name === "poll") url.searchParams.set("wait", wait);
    else if (this.#options.from !== undefined) url.searchParams.set("from", this.#options.from);
    if (this.#options.types) url.searchParams.set("types", this.#options.types.join(","));
    return url.href;
  }

  async #headers() {
    const { token } = this.#options;
    const text = typeof token === "function" ? await token() : token;
    return text ? { Authorization: `Bearer ${text}` } : {};
  }

  /** Takes one frame: an event once, and what the hub says of the stream. */
  #take(event) {
    const isControl = event.id === undefined && CONTROL.has(event.type);
    if (!isControl && event.id !== undefined) {
      if (!isNews(event.id, this.#cursor)) return;
      this.#cursor = event.id;
    }
    this.#attempt = this.#fruitless = 0;
    this.#renewed = false;
    if (isControl) {
      if (event.position) this.#cursor = event.position;
      if (event.type === "hello") this.#heartbeat = event.heartbeat_ms;
    }
    this.#setStatus("live");
    const state = this.#options.reduce(this.#state, event);
    const changed = state !== this.#state;
    this.#state = state;
    if (!isControl) {
      this.#waiting.push(event);
      this.#wake?.();
      if (this.#waiting.length > MOST_WAITING && this.#wake) {
        this.#fail("too_slow", "the loop over the events is too slow");
      }
      if (!this.#wake) this.#waiting.length = 0; // nobody iterates
      this.#emit("event", event);
    }
    if (!["heartbeat", "hello", "state"].includes(event.type)) this.#emit(event.type, event);
    if (changed) this.#changed();
    if (isControl && event.type === "end") {
      if (event.reason === "deleted") this.#fail("not_found", "the job was deleted");
      else this.#finish("ended");
    }
  }

  /** Decides what follows the end of a connection. */
  async #judge({ frames, status, code, after }) {
    if (status === 204 || (code === 1000 && frames)) return this.#finish("ended");
    if (code === 4404) return this.#fail("not_found", "the job is not yours to watch any more");
    if (code === 4401) return this.#renew();
    const isRefused = status === 404 || status === 401 || status === 403 || (code === 1006 && !frames);
    if (isRefused && await this.#isGone(status)) return undefined;
    if (this.transport === "poll" && frames) return undefined; // the next page
    if (!frames && ++this.#fruitless >= 2) {
      this.#at = (this.#at + 1) % this.#names.length; // a proxy that eats upgrades, or buffers
      this.#fruitless = 0;
    }
    this.#setStatus("waiting");
    const floor = code === 4013 || status === 503 ? 5_000 : 0;
    await this.#sleep(after ?? backoff(this.#attempt++, { floor }));
    if (!this.#closed) this.#setStatus("connecting");
    return undefined;
  }

  /** After a refusal: renews the credentials once, or fails for good. Returns false if it was only the network. */
  async #isGone(status) {
    try {
      const headers = await this.#headers();
      const ask = (path) => fetch(this.#base + path, { headers, credentials: "include", cache: "no-store" });
      const session = await ask("/api/session");
      if (session.status === 401) return this.#renew().then(() => true);
      if (status === undefined && (await ask(`/api/jobs/${encodeURIComponent(this.#job)}`)).status !== 404) return false;
      if (session.status >= 500) return false;
    } catch {
      return false;
    }
    this.#fail("not_found", "there is no such job, or it is not yours");
    return true;
  }

  async #renew() {
    const { renew } = this.#options;
    if (this.#renewed || (!renew && typeof this.#options.token !== "function" && this.#attempt > 0)) {
      return this.#fail("unauthorized", "not signed in any more");
    }
    this.#renewed = true;
    this.#attempt += 1;
    try {
      await renew?.();
    } catch (error) {
      return this.#fail("unauthorized", `the credentials were not renewed: ${error.message}`);
    }
    return undefined;
  }

  #sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#pause = () => { clearTimeout(timer); resolve(); };
    }).finally(() => { this.#pause = null; });
  }

  #setStatus(status) {
    if (this.#status === status || this.#closed) return;
    this.#status = status;
    this.#changed();
  }

  #changed() {
    this.#emit("change", this.#state);
    for (const listener of this.#listeners) listener();
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #fail(code, message) {
    if (this.#closed) return;
    this.#error = new WatchError(code, message);
    this.#finish("failed");
    this.#emit("failed", this.#error);
  }

  #finish(status) {
    if (this.#closed) return;
    this.#setStatus(status);
    this.#closed = true;
    this.#abort?.abort();
    this.#pause?.();
    this.#wake?.();
  }
}
