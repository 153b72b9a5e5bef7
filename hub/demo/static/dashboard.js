"use strict";
/* No text of an event is parsed as HTML: a card is a copy of the template above, filled by textContent. */

const TERMINAL = new Set(["ready", "failed"]);
const STAGES = 5;             // the demo's; used until an event gives the number of steps
const STALE_AFTER = 20_000;   // heartbeats come every 15 s, so 20 s of silence is a fault
const GIVE_UP_AFTER = 35_000; // two heartbeats missed: the TCP connection is half open, open a new one
const CUT_FOR = 3_000;
const PING_EVERY = 5_000;
const POLL_EVERY = 3_000;
const SPARK = 60;             // seconds shown by a sparkline, one bucket per second

const $ = (selector, root = document) => root.querySelector(selector);
const text = (value) => typeof value === "string" ? value : value == null ? "" : JSON.stringify(value);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const say = (node, words) => { if (node.textContent !== String(words)) node.textContent = words; };

function parse(data) {
  try {
    const value = JSON.parse(data);
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
  } catch { /* falls through */ }
  return { type: "raw", data };
}

function pictureUrl(value) { // only http(s), absolute or relative: never javascript:, data: or blob:
  try {
    const url = new URL(value, location.href);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch { return null; }
}

function backoff(attempt) { // 0.5 s doubling to 15 s; half of it random, so that a thousand pages do not return at once
  const ceiling = Math.min(15_000, 500 * 2 ** attempt);
  return ceiling / 2 + Math.random() * ceiling / 2;
}

/* ---------- the socket: one for all jobs, independent of the cards ---------- */

const socket = {
  state: "connecting", attempt: 0, refs: 0, waiting: new Map(),

  open() {
    this.drop();
    this.heard = Date.now();
    const url = new URL("/api/events/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const wire = this.wire = new WebSocket(url);
    // Callbacks of a dropped socket may still be queued; they are ignored.
    wire.onopen = () => { if (wire === this.wire) { this.set("live"); board.opened(); this.ping(); } };
    wire.onmessage = (message) => { if (wire === this.wire) this.hear(parse(message.data)); };
    wire.onclose = (event) => { if (wire === this.wire) this.retry(event.code); };
  },

  hear(frame) {
    this.heard = Date.now();
    this.attempt = 0;
    if (this.state !== "live") this.set("live");
    if (frame.ref !== undefined && frame.id === undefined) this.answer(frame);
    else if (frame.type === "reconnect") this.serverDelay = frame.after_ms;
    else if (frame.job_id) board.hear(frame);
  },

  /* Every command carries a ref, and its answer carries the same one. */
  send(command, answered = () => {}) {
    if (this.wire?.readyState !== WebSocket.OPEN) return;
    const ref = ++this.refs;
    this.waiting.set(ref, answered);
    this.wire.send(JSON.stringify({ ...command, ref }));
  },

  answer(frame) {
    const answered = this.waiting.get(frame.ref);
    this.waiting.delete(frame.ref);
    answered?.(frame);
  },

  ping() {
    const at = performance.now();
    this.send({ op: "ping" }, () => say($("#trip"), `${Math.max(1, Math.round(performance.now() - at))} ms`));
  },

  retry(code) {
    this.pause();
    if (code === 4404) return note("This dashboard is not available to you any more", "warn");
    const delay = this.serverDelay ?? (code === 4013 ? 5_000 : 0) + backoff(this.attempt++);
    this.serverDelay = undefined;
    this.timer = setTimeout(() => this.open(), delay);
  },

  cut(ms) { this.pause(); this.timer = setTimeout(() => this.open(), ms); },
  pause() { this.drop(); this.set("reconnecting"); },
  drop() { clearTimeout(this.timer); this.waiting.clear(); const wire = this.wire; this.wire = null; wire?.close(1000); },

  watchdog() {
    if (!this.wire) return;
    const silent = Date.now() - this.heard;
    if (silent > GIVE_UP_AFTER) { this.set("reconnecting"); this.open(); }
    else if (silent > STALE_AFTER && this.state === "live") this.set("stale");
  },

  set(state) { this.state = $("#socket").dataset.state = state; say($("#socket .light"), state); },
};

function note(words, tone = "") { say($("#note"), words); $("#note").dataset.tone = tone; }

/* ---------- card: one build, in its newest run ---------- */

class Card {
  constructor(entry) {
    this.root = $("#card-template").content.cloneNode(true).firstElementChild;
    this.title = text(entry.title) || entry.job_id;
    this.wanted = true;
    $("a", this.root).textContent = this.title;
    $(".progress", this.root).setAttribute("aria-label", `Progress of ${this.title}`);
    $(".spark", this.root).setAttribute("aria-label", `Events per second of ${this.title}, last minute`);
    $(".watch", this.root).addEventListener("click", () => this.toggle());
    this.start(entry);
  }

  start(entry) { // a new run is a new job: nothing of the former one stays, but the choice to watch it
    Object.assign(this, { job: entry.job_id, status: text(entry.status), narration: "", last: null, events: 0, missing: 0, step: 0, steps: 0, ended: false, buckets: new Map() });
    this.root.dataset.job = this.job;
    $("a", this.root).href = `/?job=${encodeURIComponent(this.job)}`;
    $(".thumb", this.root).replaceChildren();
    this.subscribe();
    this.draw();
  }

  replace(entry) {
    if (this.subscribed && !this.ended) socket.send({ op: "unsubscribe", job: this.job });
    this.start(entry);
  }

  toggle() {
    this.wanted = !this.wanted;
    if (this.wanted) this.subscribe();
    else this.unsubscribe();
    this.draw();
  }

  subscribe() {
    if (!this.wanted) return;
    if (this.ended) { this.subscribed = true; return; } // nothing more will come; the choice holds for the next run
    const command = { op: "subscribe", job: this.job };
    if (this.last) command.after = this.last;
    socket.send(command, (answer) => {
      if (answer.type === "error") this.narration = `Not available: ${text(answer.message)}`;
      this.subscribed = answer.type === "subscribed" && this.wanted;
      this.draw();
    });
  }

  unsubscribe() {
    this.subscribed = false;
    if (!this.ended) socket.send({ op: "unsubscribe", job: this.job });
  }

  hear(frame) {
    if (frame.id === undefined && frame.type === "end") return this.end(frame);
    if (frame.id === undefined && frame.type === "state") return this.applyState(frame);
    if (frame.id === undefined && (frame.type === "gap" || frame.type === "resync")) return note(`${this.title}: ${frame.type} (${text(frame.reason)}); showing its latest state`, "warn");
    if (!this.wanted || !this.accept(frame.id)) return; // a last event may cross our unsubscribe on the way
    this.events += 1;
    board.received();
    this.bucket(frame);
    this.apply(frame);
    this.draw();
  }

  /* Ids are epoch-seq and seq is contiguous, so a jump is a loss. Returns false for an event seen before. */
  accept(id) {
    if (!id) return true; // a foreign producer's event, which has no place in the log
    const [epoch, seq] = id.split("-");
    const [lastEpoch, lastSeq] = (this.last ?? "").split("-");
    if (epoch === lastEpoch) {
      if (+seq <= +lastSeq) return false;
      this.missing += +seq - +lastSeq - 1;
    }
    this.last = id;
    return true;
  }

  apply(event) {
    if (event.status) this.status = text(event.status);
    if (event.type === "snapshot.updated") this.showPicture(event);
    if (event.type === "build.stage.completed") this.step = event.step ?? this.step + 1;
    if (event.type === "build.stage.started") {
      this.narration = text(event.narration);
      if (event.step && !TERMINAL.has(event.status)) this.step = event.step - 1;
    }
    this.steps = event.steps ?? this.steps;
  }

  applyState(state) { // the hub's word on where the job is: stands in for events that are gone
    const events = Object.values(state.last ?? {}).sort((a, b) => (a.ts ?? 0) - (b.ts ?? 0));
    for (const event of events) this.apply(event);
    if (state.status) this.status = text(state.status);
    const [epoch, seq] = (state.position ?? "").split("-");
    const [lastEpoch, lastSeq] = (this.last ?? "").split("-");
    if (epoch && epoch === lastEpoch) this.missing += Math.max(0, +seq - +lastSeq);
    if (epoch) this.last = state.position;
    this.draw();
  }

  end(frame) {
    this.ended = true;
    this.status = text(frame.status) || this.status;
    say($("#spoken"), `${this.title}: ${this.status}`);
    this.draw();
  }

  showPicture(event) {
    const url = pictureUrl(event.url);
    if (!url) return;
    const image = document.createElement("img");
    image.alt = `Latest picture of ${this.title}`;
    image.referrerPolicy = "no-referrer";
    image.onload = () => { while (image.previousSibling) image.previousSibling.remove(); };
    image.src = url;
    $(".thumb", this.root).append(image);
  }

  bucket(event) { // a replayed event belongs to the second it was published in, not to the one it arrived in
    const now = Date.now();
    const at = Math.floor(Math.min(now, event.ts ?? now) / 1000);
    this.buckets.set(at, (this.buckets.get(at) ?? 0) + 1);
  }

  draw() {
    const total = this.steps || STAGES;
    const done = this.status === "ready" ? 1 : Math.min(.98, this.step / total);
    const data = { status: this.status, subscribed: Boolean(this.subscribed), lastId: this.last ?? "", events: this.events, missing: this.missing };
    Object.assign(this.root.dataset, data);
    this.root.toggleAttribute("data-hole", this.missing > 0);
    say($(".pill", this.root), this.status || "waiting");
    say($(".narration", this.root), this.narration || (this.wanted ? "Waiting for the first event" : "Not subscribed"));
    say($(".facts", this.root), this.missing ? `${this.missing} missing` : plural(this.events, "event"));
    $(".progress", this.root).setAttribute("aria-valuenow", Math.round(done * 100));
    $(".progress i", this.root).style.setProperty("--done", done);
    const button = $(".watch", this.root);
    button.setAttribute("aria-pressed", this.wanted);
    button.setAttribute("aria-label", `Watch ${this.title}`);
    say(button, this.wanted ? "Watching" : "Watch");
    board.count();
  }

  drawSpark(second) {
    for (const at of this.buckets.keys()) if (at < second - SPARK) this.buckets.delete(at);
    const counts = Array.from({ length: SPARK }, (_, i) => this.buckets.get(second - SPARK + 1 + i) ?? 0);
    const smooth = counts.map((n, i) => (n + (counts[i - 1] ?? n) + (counts[i - 2] ?? n)) / 3);
    const top = Math.max(1, ...smooth);
    const points = smooth.map((n, i) => `${(i * 120 / (SPARK - 1)).toFixed(1)} ${(32 - n / top * 29).toFixed(1)}`);
    $(".spark path", this.root).setAttribute("d", `M-2 36L-2 32L${points.join("L")}L122 32L122 36Z`);
  }
}

/* ---------- board: the cards by title, and the frames they get from the socket ---------- */

const board = {
  cards: new Map(), total: 0,

  async poll() {
    try {
      const answer = await fetch("/demo/jobs");
      if (answer.ok) this.show((await answer.json()).jobs ?? []);
    } catch { /* the server is away; the next poll asks again */ }
  },

  show(jobs) {
    for (const entry of jobs) {
      const key = text(entry.title) || entry.job_id;
      const card = this.cards.get(key);
      if (!card) this.add(key, new Card(entry));
      else if (card.job !== entry.job_id) card.replace(entry);
      else if (!card.subscribed && card.status !== entry.status) { card.status = text(entry.status); card.draw(); }
    }
    $("#empty").hidden = this.cards.size > 0;
  },

  add(key, card) { this.cards.set(key, card); $("#cards").append(card.root); card.draw(); },

  hear(frame) {
    for (const card of this.cards.values()) if (card.job === frame.job_id) card.hear(frame);
  },

  received() {
    this.total += 1;
    if (this.resumed) this.resumed.caught += 1;
  },

  missing() { return [...this.cards.values()].reduce((sum, card) => sum + card.missing, 0); },

  opened() {
    const cards = [...this.cards.values()];
    const before = cards.filter((card) => card.last).length;
    for (const card of cards) { card.subscribed = card.ended && card.wanted; card.subscribe(); }
    if (before) this.settleSoon(this.missing());
  },

  settleSoon(missing) { // what arrives in the first breath after opening was waiting for us
    this.resumed = { caught: 0 };
    setTimeout(() => {
      const lost = this.missing() - missing;
      note(`Resumed: ${plural(this.resumed.caught, "event")} caught up, ${lost} missing`, lost ? "warn" : "good");
      this.resumed = null;
    }, 600);
  },

  cut() {
    if (this.cutUntil) return;
    this.cutUntil = Date.now() + CUT_FOR;
    note("Cut; the builds go on without us", "warn");
    socket.cut(CUT_FOR);
  },

  count() {
    const cards = [...this.cards.values()];
    say($("#subscribed"), `${cards.filter((card) => card.subscribed).length} of ${cards.length}`);
    say($("#events"), this.total);
    say($("#missing"), this.missing());
  },

  tick() {
    const now = Date.now();
    socket.watchdog();
    if (this.cutUntil && now >= this.cutUntil) this.cutUntil = 0;
    $("#cut").setAttribute("aria-disabled", Boolean(this.cutUntil));
    say($("#cut"), this.cutUntil ? `Back in ${((this.cutUntil - now) / 1000).toFixed(1)} s` : "Cut the connection");
    const second = Math.floor(now / 1000);
    if (second === this.second) return;
    this.second = second;
    for (const card of this.cards.values()) card.drawSpark(second);
  },
};

const theme = {
  dark: matchMedia("(prefers-color-scheme: dark)"),
  chosen: null,
  now() { return this.chosen ?? (this.dark.matches ? "dark" : "light"); },
  apply() {
    if (this.chosen) document.documentElement.dataset.theme = this.chosen;
    $("#theme").firstChild.textContent = this.now() === "dark" ? "Light" : "Dark";
  },
  toggle() {
    this.chosen = this.now() === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", this.chosen); } catch { /* storage may be denied: the choice lasts for this page */ }
    this.apply();
  },
};
try { theme.chosen = localStorage.getItem("theme"); } catch { /* as above */ }
theme.apply();
theme.dark.addEventListener("change", () => theme.apply());

$("#theme").addEventListener("click", () => theme.toggle());
$("#cut").addEventListener("click", () => board.cut());

setInterval(() => board.tick(), 100);
setInterval(() => socket.ping(), PING_EVERY);
setInterval(() => board.poll(), POLL_EVERY);
board.poll().then(() => { socket.open(); document.body.dataset.ready = "true"; });
