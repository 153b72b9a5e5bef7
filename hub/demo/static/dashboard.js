import { dashboard } from "/hub.js";

/* No text of an event is parsed as HTML: a card is a copy of the template above, filled by textContent. */

const TERMINAL = new Set(["ready", "failed"]);
const STAGES = 5;             // the demo's; used until an event gives the number of steps
const STALE_AFTER = 20_000;   // heartbeats come every 15 s, so 20 s of silence is a fault
const CUT_FOR = 3_000;
const PING_EVERY = 5_000;
const POLL_EVERY = 3_000;
const SPARK = 60;             // seconds shown by a sparkline, one bucket per second

const $ = (selector, root = document) => root.querySelector(selector);
const text = (value) => typeof value === "string" ? value : value == null ? "" : JSON.stringify(value);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const say = (node, words) => { if (node.textContent !== String(words)) node.textContent = words; };

function pictureUrl(value) { // only http(s), absolute or relative: never javascript:, data: or blob:
  try {
    const url = new URL(value, location.href);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch { return null; }
}

/* ---------- the socket: one for all jobs, by hub.js ---------- */

const socket = {
  early: new Map(), state: "connecting", refs: 0, asked: null, heard: Date.now(),

  open() {
    const one = this.hub = dashboard({ mine: true, viewers: true });
    this.early.clear();
    one.addEventListener("job", ({ detail: { id, job } }) => { // a build has begun, somewhere: its card is not there yet
      const frames = [];
      this.early.set(id, frames);
      job.addEventListener("frame", ({ detail }) => { if (this.early.get(id) === frames) frames.push(detail); });
      if (this.hub === one) board.poll();
    });
    one.addEventListener("frame", ({ detail: frame }) => {
      if (this.hub !== one) return;
      this.heard = Date.now();
      if (this.state !== "live") { this.set("live"); board.opened(); this.ping(); }
      if (frame.type === "pong" && frame.ref === this.asked?.ref) say($("#trip"), `${Math.max(1, Math.round(performance.now() - this.asked.at))} ms`);
    });
    one.addEventListener("change", () => {
      if (this.hub !== one) return;
      if (one.status === "waiting") this.set("reconnecting");
      if (one.status === "failed") note("This dashboard is not available to you any more", "warn");
    });
    for (const card of board.cards.values()) card.subscribe();
  },

  ping() {
    this.asked = { ref: ++this.refs, at: performance.now() };
    this.hub?.send({ op: "ping", ref: this.refs });
  },

  cut(ms) {
    const one = this.hub;
    this.hub = null;
    one?.close();
    this.set("reconnecting");
    setTimeout(() => this.open(), ms);
  },

  watchdog() {
    if (this.state === "live" && Date.now() - this.heard > STALE_AFTER) this.set("stale"); // hub.js connects anew after 30 s
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
    $(".stop", this.root).addEventListener("click", () => this.order("cancel"));
    $(".approve", this.root).addEventListener("click", () => this.order("approve"));
    this.start(entry);
  }

  start(entry) { // a new run is a new job: nothing of the former one stays, but the choice to watch it
    Object.assign(this, { job: entry.job_id, status: text(entry.status), narration: "", last: null, events: 0, missing: 0, step: 0, steps: 0, ended: false, buckets: new Map() });
    this.root.dataset.job = this.job;
    $("a", this.root).href = `/?job=${encodeURIComponent(this.job)}`;
    $(".thumb", this.root).replaceChildren();
    this.answer("");
    say($(".viewers", this.root), "");
    this.subscribe();
    this.draw();
  }

  replace(entry) { this.unsubscribe(); this.start(entry); }

  toggle() {
    this.wanted = !this.wanted;
    if (this.wanted) this.subscribe();
    else this.unsubscribe();
    this.draw();
  }

  async order(name) { // what the worker makes of it comes as an event, for every viewer
    this.answer(name === "cancel" ? "Stopping…" : "Approving…");
    try {
      this.ordered = await (this.watching ?? socket.hub)?.command?.(name);
    } catch (error) { this.answer(error.message, "warn"); }
  }

  answer(words, tone = "") { say($(".answer", this.root), words); $(".answer", this.root).dataset.tone = tone; }

  subscribe() {
    if (!this.wanted) return;
    if (this.ended) { this.subscribed = true; return; } // nothing more will come; the choice holds for the next run
    const one = this.watching = socket.hub?.watch(this.job, { after: this.last, viewers: true });
    for (const frame of socket.early.get(this.job) ?? []) this.hear(frame);
    socket.early.delete(this.job);
    one?.addEventListener("frame", ({ detail }) => { if (this.watching === one) this.hear(detail); });
    one?.addEventListener("failed", ({ detail }) => { if (this.watching === one) { this.narration = `Not available: ${detail.message}`; this.subscribed = false; this.draw(); } });
  }

  unsubscribe() {
    const one = this.watching;
    this.watching = null;
    this.subscribed = false;
    one?.close();
  }

  hear(frame) {
    if (frame.id === undefined && frame.type === "hello") { this.subscribed = true; return this.draw(); }
    if (frame.id === undefined && frame.type === "viewers") return say($(".viewers", this.root), plural(frame.count, "viewer"));
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
    if (event.type === "command.done") this.answer(text(event.narration) || "Done", "good");
    if (event.type === "command.refused") this.answer(text(event.reason), "warn");
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
    $(".stop", this.root).disabled = this.ended || TERMINAL.has(this.status);
    $(".approve", this.root).hidden = this.status !== "approval";
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

  received() {
    this.total += 1;
    if (this.resumed) this.resumed.caught += 1;
  },

  missing() { return [...this.cards.values()].reduce((sum, card) => sum + card.missing, 0); },

  opened() {
    if ([...this.cards.values()].some((card) => card.last)) this.settleSoon(this.missing());
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
