// hub.js: watches jobs of push-hub. One file, no dependency. The contract is docs/protocol.md.
//
//   import { watch } from "/hub.js";
//   for await (const event of watch("build-42")) console.log(event.type, event);
//
// `dashboard()` watches many jobs on one connection.
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
  "subscribed", "unsubscribed", "authenticated", "accepted", "viewers"]);

/** Why a watch failed. `code`: "not_found", "unauthorized", "too_slow", "too_many", "unsupported"; why a command did:
 * "not_found", "forbidden", "conflict" (the job is over, or nobody works on it), "invalid", "too_many", "unavailable". */
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
  websocket(url, { frame, signal, opened }) {
    return new Promise((resolve) => {
      const socket = new WebSocket(url.replace(/^http/, "ws"));
      socket.onopen = () => opened((command) => socket.readyState === 1 && (socket.send(JSON.stringify(command)), true));
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

const REFUSALS = { 401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict", 429: "too_many" };

function newKey() {
  return globalThis.crypto?.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // not every page is a secure context
}

function retryAfter(answer) {
  const seconds = Number(answer.headers.get("retry-after"));
  return seconds > 0 ? seconds * 1000 : undefined;
}

// --- what a page sees of a job

/**
 * A job that is watched: an async iterator of events, an EventTarget ("event", an event's type, "gap", "resync",
 * "change", "end", "failed", and "frame" for whatever the hub sends) and a store (`subscribe`, `getSnapshot`) with the
 * job's `state`.
 */
class Job extends EventTarget {
  #state = UNKNOWN; #status = "connecting"; #error = null; #cursor; #reduce; #settle;
  #waiting = []; #wake = null; #listeners = new Set(); #closed = false;

  constructor({ after = null, reduce = fold }) {
    super();
    this.#cursor = after;
    this.#reduce = reduce;
    this.done = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
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

  // For React: useSyncExternalStore(job.subscribe, job.getSnapshot).
  subscribe = (listener) => { this.#listeners.add(listener); return () => this.#listeners.delete(listener); };
  getSnapshot = () => this.#state;

  /** Stop watching. */
  close() { this._finish("closed"); }

  /** Gives a command to the job's worker, once however often it is sent: `await job.command("cancel", {why: "enough"})`.
   * Resolves to its id, which the worker's `command.done` or `command.refused` has; rejects with a WatchError. */
  command(name, args = {}, { key = newKey() } = {}) { return this._link.command(this._path, name, args, key); }

  async *[Symbol.asyncIterator]() {
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

  get _closed() { return this.#closed; }

  /** Takes one frame: an event once, and what the hub says of the stream. */
  _take(event) {
    const isControl = event.id === undefined && CONTROL.has(event.type);
    if (!isControl && event.id !== undefined) {
      if (!isNews(event.id, this.#cursor)) return;
      this.#cursor = event.id;
    }
    if (isControl && event.position) this.#cursor = event.position;
    this._setStatus("live");
    this.#emit("frame", event);
    const state = this.#reduce(this.#state, event);
    const changed = state !== this.#state;
    this.#state = state;
    if (!isControl) {
      this.#waiting.push(event);
      this.#wake?.();
      if (this.#waiting.length > MOST_WAITING && this.#wake) this._fail("too_slow", "the loop over the events is too slow");
      if (!this.#wake) this.#waiting.length = 0; // nobody iterates
      this.#emit("event", event);
    }
    if (!isControl || ["gap", "resync", "end"].includes(event.type)) this.#emit(event.type, event);
    if (changed) this.#changed();
    if (isControl && event.type === "end") {
      if (event.reason === "deleted") this._fail("not_found", "the job was deleted");
      else this._finish("ended");
    }
  }

  _setStatus(status) {
    if (this.#status === status || this.#closed) return;
    this.#status = status;
    this.#changed();
  }

  _fail(code, message) {
    if (this.#closed) return;
    this.#error = new WatchError(code, message);
    this._finish("failed");
    this.#emit("failed", this.#error);
  }

  _finish(status) {
    if (this.#closed) return;
    this._setStatus(status);
    this.#closed = true;
    this._leave();
    this.#wake?.();
    if (this.#error) this.#settle.reject(this.#error);
    else this.#settle.resolve(this.#state);
  }

  #changed() {
    this.#emit("change", this.#state);
    for (const listener of this.#listeners) listener();
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// --- one connection after the other

/** Connects again and again for its `owner`, which makes the URLs, takes the frames and is told how it goes. */
class Link {
  #owner; #names; #token; #renewal;
  #at = 0; #attempt = 0; #fruitless = 0; #renewed = false; #pause = null; #heard = 0; #heartbeat = OPENING; #abort = null;

  constructor(owner, names, { url = "", token, renew }) {
    this.#owner = owner;
    this.#names = names;
    this.#token = token;
    this.#renewal = renew;
    this.base = new URL(url || "/", globalThis.location?.href).href.replace(/\/$/, "");
  }

  get name() { return this.#names[this.#at]; }
  get silence() { return (Date.now() - this.#heard) / this.#heartbeat; }

  /** Runs `work` while the page's own events are listened to: one that comes back looks at its connection at once. */
  async run(work) {
    await null; // listeners and an iterator come first
    const look = () => { if (this.silence > 2) this.#abort?.abort(); this.wake(); };
    for (const name of ["online", "pageshow"]) globalThis.addEventListener?.(name, look);
    globalThis.document?.addEventListener("visibilitychange", look);
    try {
      await work();
    } finally {
      for (const name of ["online", "pageshow"]) globalThis.removeEventListener?.(name, look);
      globalThis.document?.removeEventListener("visibilitychange", look);
    }
  }

  async stream() {
    while (!this.#owner._closed) {
      const end = await this.#connect();
      if (!this.#owner._closed) await this.#judge(end);
    }
  }

  end() {
    this.#abort?.abort();
    this.wake();
  }

  /** A frame has come, over this connection or another tab's. */
  heard(event) {
    this.#heard = Date.now();
    if (!event) return;
    this.#attempt = this.#fruitless = 0;
    this.#renewed = false;
    if (event.type === "hello" && event.id === undefined) this.#heartbeat = event.heartbeat_ms;
  }

  wake() { this.#pause?.(); }

  sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#pause = () => { clearTimeout(timer); resolve(); };
    }).finally(() => { this.#pause = null; });
  }

  async #connect() {
    const owner = this.#owner, abort = this.#abort = new AbortController();
    const attempt = { frames: 0, after: undefined };
    this.heard();
    this.#heartbeat = OPENING / 2; // until `hello` says more
    const watchdog = setInterval(() => { if (this.silence > 2) abort.abort(); }, 1000);
    const frame = (event) => {
      if (abort.signal.aborted || owner._closed) return;
      attempt.frames += 1;
      this.heard(event);
      if (event.type === "reconnect" && event.id === undefined) attempt.after = event.after_ms;
      owner._frame(event);
    };
    try {
      const name = this.name, headers = await this.#headers();
      const url = name === "poll" ? (cursor) => owner._url(name, cursor) : owner._url(name, owner.position);
      const more = { headers, opened: (send) => owner._opened?.(send), cursor: () => owner.position };
      const end = await TRANSPORTS[name](url, { frame, signal: abort.signal, ...more });
      return { ...attempt, ...end, after: attempt.after ?? end.after };
    } catch {
      return attempt; // the network, or the watchdog
    } finally {
      clearInterval(watchdog);
      abort.abort();
    }
  }

  async command(path, name, args, key) {
    const body = JSON.stringify({ name, args });
    for (let attempt = 0; ; attempt++) {
      const headers = { ...await this.#headers(), "Content-Type": "application/json", "Idempotency-Key": key };
      const options = { method: "POST", body, headers, credentials: "include" };
      const answer = await fetch(`${this.base}${path}/commands`, options).catch(() => null);
      if (answer?.status === 202) return (await answer.json()).command;
      if (answer && answer.status < 500) {
        const { detail } = await answer.json().catch(() => ({}));
        throw new WatchError(REFUSALS[answer.status] ?? "invalid", typeof detail === "string" ? detail : "the command was not taken");
      }
      if (attempt >= 3) throw new WatchError("unavailable", "the hub did not take the command");
      await new Promise((resolve) => { setTimeout(resolve, (answer && retryAfter(answer)) ?? backoff(attempt)); });
    }
  }

  async #headers() {
    const text = typeof this.#token === "function" ? await this.#token() : this.#token;
    return text ? { Authorization: `Bearer ${text}` } : {};
  }

  /** Decides what follows the end of a connection. */
  async #judge({ frames, status, code, after }) {
    const owner = this.#owner;
    if (status === 204 || (code === 1000 && frames)) return owner._finish("ended");
    if (code === 4404) return owner._fail("not_found", "the job is not yours to watch any more");
    if (code === 4401) return this.#renew();
    const isRefused = status === 404 || status === 401 || status === 403 || (code === 1006 && !frames);
    if (isRefused && await this.#isGone()) return undefined;
    if (this.name === "poll" && frames) return undefined; // the next page
    if (!frames && ++this.#fruitless >= 2) {
      this.#at = (this.#at + 1) % this.#names.length; // a proxy that eats upgrades, or buffers
      this.#fruitless = 0;
    }
    owner._setStatus("waiting");
    const floor = code === 4013 || status === 503 ? 5_000 : 0;
    await this.sleep(after ?? backoff(this.#attempt++, { floor }));
    if (!owner._closed) owner._setStatus("connecting");
    return undefined;
  }

  /** After a refusal: renews the credentials once, or fails for good. Returns false if it was only the network. */
  async #isGone() {
    try {
      const headers = await this.#headers();
      const ask = (path) => fetch(this.base + path, { headers, credentials: "include", cache: "no-store" });
      const session = await ask("/api/session");
      if (session.status === 401) return this.#renew().then(() => true);
      // Asked again: another watch may have renewed the session since the refusal.
      if (session.status >= 500 || !this.#owner._path || (await ask(this.#owner._path)).status !== 404) return false;
    } catch {
      return false;
    }
    this.#owner._fail("not_found", "there is no such job, or it is not yours");
    return true;
  }

  async #renew() {
    if (this.#renewed || (!this.#renewal && typeof this.#token !== "function" && this.#attempt > 0)) {
      return this.#owner._fail("unauthorized", "not signed in any more");
    }
    this.#renewed = true;
    this.#attempt += 1;
    try {
      await this.#renewal?.();
    } catch (error) {
      return this.#owner._fail("unauthorized", `the credentials were not renewed: ${error.message}`);
    }
    return undefined;
  }
}

// --- one job

/** Watches a job until its end. See `Job` for what the result is. */
export function watch(job, options = {}) {
  return new Watch(job, options);
}

export class Watch extends Job {
  #options; #job; #send = null; #tell = null;

  constructor(job, options = {}) {
    super(options);
    const { transport = "auto", token, from, after = null, share = true } = options;
    this.#job = job;
    this.#options = options;
    this._path = `/api/jobs/${encodeURIComponent(job)}`;
    // A browser sends no header with a WebSocket, so a token goes by fetch.
    const all = token || typeof WebSocket === "undefined" ? ["sse", "poll"] : ["websocket", "sse", "poll"];
    if (transport !== "auto" && !TRANSPORTS[transport]) throw new WatchError("unsupported", `expected a transport, got ${transport}`);
    if (transport === "websocket" && token) throw new WatchError("unsupported", "a WebSocket takes a cookie or a ticket, no token");
    this._link = new Link(this, transport === "auto" ? all : [transport], options);
    // Tabs that watch the same with the same cookie share one connection.
    const shares = share && transport === "auto" && !token && from === undefined && after === null
      && globalThis.navigator?.locks && globalThis.BroadcastChannel;
    this._link.run(() => (shares ? this.#share() : this._link.stream()));
  }

  /** "websocket", "sse" or "poll". */
  get transport() { return this._link.name; }

  _leave() { this._link.end(); }

  /** Sends a command (docs/protocol.md); the answer is a "frame". Returns false if this is no WebSocket of this page. */
  send(command) { return this.#send?.(command) ?? false; }

  _opened(send) { this.#send = send; }

  _frame(event) {
    this.#tell?.(event);
    this._take(event);
  }

  /** The first tab leads: it has the connection, and tells the others each frame. When it goes, the next one leads. */
  async #share() {
    const name = `push-hub ${this._link.base} ${this.#job} ${this.#options.types ?? ""}`;
    const channel = new BroadcastChannel(name), waiting = new AbortController(), early = [], link = this._link;
    let isCaughtUp = false, leading = null;
    const lead = () => {
      this.#tell = (frame) => channel.postMessage(frame);
      leading = link.stream();
      link.wake();
      return leading;
    };
    const take = (frame) => { link.heard(frame); this._take(frame); };
    channel.onmessage = ({ data }) => {
      link.heard();
      if (leading || this._closed) return;
      if (isCaughtUp) take(data);
      else early.push(data);
    };
    try {
      if (await navigator.locks.request(name, { ifAvailable: true }, async (lock) => lock && (await lead(), true))) return;
      navigator.locks.request(name, { signal: waiting.signal }, lead).catch(() => {}); // until it is our turn
      if (await this.#catchUp(waiting.signal, take)) {
        isCaughtUp = true;
        early.forEach(take);
        link.heard();
        while (!leading && !this._closed && link.silence < 3) await link.sleep(1000);
      }
      if (!leading) waiting.abort(); // the leader is silent, or there is no hub: a connection of our own
      await (leading ?? link.stream());
    } finally {
      waiting.abort();
      channel.close();
      this.#tell = null;
    }
  }

  /** Reads what is there already, page by page. Returns false if that did not work. */
  async #catchUp(signal, frame) {
    const options = { frame, signal, headers: {}, cursor: () => this.position };
    try {
      for (let before; !this._closed && before !== this.position;) {
        before = this.position;
        const { status } = await TRANSPORTS.poll((cursor) => this._url("poll", cursor, 0), options);
        if (status) return false;
      }
      return true;
    } catch {
      return false;
    }
  }

  _url(name, cursor, wait = cursor ? POLL_WAIT : 0) {
    const path = { websocket: "events/ws", sse: "events/stream", poll: "events" }[name];
    const url = new URL(`${this._link.base}${this._path}/${path}`);
    if (cursor) url.searchParams.set(name === "poll" ? "after" : "last_event_id", cursor);
    if (name === "poll") url.searchParams.set("wait", wait);
    else if (this.#options.from !== undefined) url.searchParams.set("from", this.#options.from);
    if (this.#options.types) url.searchParams.set("types", this.#options.types.join(","));
    return url.href;
  }
}

// --- many jobs

/** Watches many jobs on one WebSocket: `dashboard().watch("build-42")` is what `watch` gives, by a cookie or a session.
 * With `mine: true` all jobs of the user that run are watched, and those that begin later: each is a "job" event, and
 * `types` and `viewers` are for all of them. */
export function dashboard(options = {}) {
  return new Dashboard(options);
}

class Member extends Job {
  constructor(id, link, options, leave) {
    super(options);
    this._path = `/api/jobs/${encodeURIComponent(id)}`;
    this._link = link;
    this.options = options;
    this._leave = leave;
  }
}

export class Dashboard extends EventTarget {
  #jobs = new Map(); #link; #mine = null; #send = null; #closed = false; #status = "connecting"; #error = null;

  constructor(options = {}) {
    super();
    if (options.mine) this.#mine = { op: "subscribe", mine: true, types: options.types, viewers: options.viewers };
    if (options.token) throw new WatchError("unsupported", "a WebSocket takes a cookie, no token");
    this.#link = new Link(this, ["websocket"], options);
    this.#link.run(() => this.#link.stream());
  }

  /** "connecting", "live", "waiting", "failed" or "closed". */
  get status() { return this.#status; }
  /** Why it failed, or null. */
  get error() { return this.#error; }

  /** Watches a job, from now or from where `options` (`after`, `from`, `types`, `reduce`) say. The same job once. With
   * `viewers` the job gets "frame" events of the type "viewers", which have its `count` over all hubs. */
  watch(id, options = {}) {
    const known = this.#jobs.get(id);
    if (known || this.#closed) return known;
    const job = this.#add(id, options);
    this.#subscribe(id, job);
    return job;
  }

  #add(id, options) {
    const job = new Member(id, this.#link, options, () => {
      this.#jobs.delete(id);
      if (job.status === "closed") this.#send?.({ op: "unsubscribe", job: id });
    });
    this.#jobs.set(id, job);
    return job;
  }

  /** Sends a command (docs/protocol.md); the answer is a "frame" event. Returns false while there is no connection. */
  send(command) { return this.#send?.(command) ?? false; }

  /** Ends the connection, and every job's watch. */
  close() { this._finish("closed"); }

  #subscribe(id, job) {
    const { from, types, viewers } = job.options;
    this.#send?.({ op: "subscribe", job: id, ref: id.slice(0, 128), after: job.position ?? undefined, from: job.position ? undefined : from, types, viewers });
  }

  // --- what the link tells it

  get _closed() { return this.#closed; }
  get position() { return null; }
  _url() { return `${this.#link.base}/api/events/ws`; }

  _opened(send) {
    this.#send = send;
    for (const [id, job] of this.#jobs) this.#subscribe(id, job);
    if (this.#mine) send(this.#mine);
  }

  _frame(event) {
    this._setStatus("live");
    this.dispatchEvent(new CustomEvent("frame", { detail: event }));
    const { job_id: id, ...frame } = event;
    let job = this.#jobs.get(id);
    if (!job && this.#mine && event.type === "subscribed" && id && frame.ref === undefined) {
      job = this.#add(id, {});
      this.dispatchEvent(new CustomEvent("job", { detail: { id, job } }));
    }
    if (!job) return;
    if (event.type !== "error" || event.id !== undefined) job._take(event.type === "subscribed" ? { ...frame, type: "hello" } : event);
    else if (frame.code === "not_found") job._fail("not_found", "there is no such job, or it is not yours");
    else if (frame.code === "too_many_jobs") job._fail("too_many", "the connection is full");
    else if (frame.code !== "already_subscribed" && frame.code !== "not_subscribed") { // for now
      setTimeout(() => { if (!job._closed) this.#subscribe(id, job); }, backoff(frame.code === "resume" ? 0 : 3));
    }
  }

  _setStatus(status) {
    if (status !== "live") this.#send = null;
    if (this.#closed || this.#status === status) return;
    this.#status = status;
    this.dispatchEvent(new CustomEvent("change"));
    if (status !== "live") for (const job of this.#jobs.values()) job._setStatus(status);
  }

  _fail(code, message) {
    this.#error = new WatchError(code, message);
    for (const job of [...this.#jobs.values()]) job._fail(code, message);
    this._finish("failed");
  }

  _finish(status) {
    if (this.#closed) return;
    this._setStatus(status);
    this.#closed = true;
    for (const job of [...this.#jobs.values()]) job._finish(status);
    this.#link.end();
  }
}
