import { watch } from "/hub.js";

/* No text of an event is parsed as HTML: every node is made with el() and filled by textContent. */

const CONTROL = new Set(["hello", "heartbeat", "gap", "resync", "state", "reconnect", "end", "pong"]);
const TERMINAL = new Set(["ready", "failed"]);
const STAGES = ["scaffold", "code", "deps", "checks", "deploy"];
const STALE_AFTER = 20_000;   // heartbeats come every 15 s, so 20 s of silence is a fault
const CUT_FOR = 3_000;
const LOG_ROWS = 400;         // most rows of the raw log; the oldest are removed
const PING_EVERY = 5_000;

const $ = (selector, root = document) => root.querySelector(selector);
const text = (value) => typeof value === "string" ? value : value == null ? "" : JSON.stringify(value);
const tail = (id) => id ? `…-${id.split("-").pop()}` : "";
const seconds = (ms) => ms < 9_950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

function el(tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.textContent = content;
  return node;
}

function pictureUrl(value) { // only http(s), absolute or relative: never javascript:, data: or blob:
  try {
    const url = new URL(value, location.href);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch { return null; }
}

/* ---------- link: one job over one transport, by hub.js; owns the status light ---------- */

class Link {
  constructor(transport, hooks) { this.transport = transport; this.hooks = hooks; this.state = "ended"; }

  watch(job) { this.job = job; this.finished = false; this.connect("connecting"); }

  connect(state) {
    this.drop();
    this.set(state);
    this.heard = Date.now();
    // Both panels are to show their own transport, so tabs share no connection here.
    const job = this.job, one = this.watching = watch(job, { transport: this.transport, share: false, after: this.hooks.cursor() });
    let isOpen = false;
    const on = (name, act) => one.addEventListener(name, (event) => { if (this.watching === one) act(event.detail); });
    on("frame", (frame) => {
      this.heard = Date.now();
      if (!isOpen) this.hooks.opened();
      isOpen = true;
      this.set("live");
      this.hear(frame);
    });
    on("change", () => { if (one.status === "waiting") { isOpen = false; this.set("reconnecting"); } });
    on("end", () => this.finish());
    on("failed", (error) => this.finish(error.message));
    one.done.then(() => { if (this.watching === one) this.finish(); }, () => {});
  }

  hear({ id, ...frame }) {
    if (id !== undefined || !CONTROL.has(frame.type)) this.hooks.event(frame, id ?? null);
    else if (frame.type === "pong") this.hooks.pong(frame.ref);
    else if (frame.type !== "hello") this.hooks.control(frame.type, frame);
  }

  send(command) { this.watching?.send(command); }
  pause() { this.drop(); this.set("reconnecting"); }
  cut(ms) { this.pause(); this.timer = setTimeout(() => this.connect("reconnecting"), ms); }

  watchdog() {
    if (this.state === "live" && Date.now() - this.heard > STALE_AFTER) this.set("stale"); // hub.js connects anew after 30 s
  }

  finish(why) { this.drop(); this.finished = true; this.set("ended"); this.hooks.ended(why); }
  drop() { clearTimeout(this.timer); const one = this.watching; this.watching = null; one?.close(); }
  set(state) { if (this.state !== state || state !== "live") { this.state = state; this.hooks.light(state); } }
}

/* ---------- panel: shows what one transport has received ---------- */

class Panel {
  constructor(kind, name, transport) {
    this.kind = kind;
    this.root = $(`#${kind}-panel`);
    this.root.append($("#panel-template").content.cloneNode(true));
    $("h2", this.root).textContent = name;
    $(".docs", this.root).setAttribute("aria-label", `Documentation over ${name}`);
    this.link = new Link(transport, {
      cursor: () => this.last,
      opened: () => this.opened(),
      event: (event, id) => this.event(event, id),
      control: (type, frame) => this.control(type, frame),
      pong: (ref) => { if (ref === this.asked?.ref) this.put("trip", `${Math.max(1, Math.round(performance.now() - this.asked.at))} ms`); },
      light: (state) => { this.root.dataset.state = state; $(".light", this.root).textContent = state; page.changed(); },
      ended: (why) => this.ended(why),
    });
    this.clear();
  }

  watch(job) { this.clear(); this.link.watch(job); }

  clear() {
    clearTimeout(this.settling);
    Object.assign(this, { last: null, events: 0, missing: 0, beats: 0, burst: null, status: "", narration: "", step: 0, steps: 0 });
    this.put("latency", "–");
    this.put("trip", this.kind === "ws" ? "–" : "one way");
    delete this.root.dataset.caughtUp;
    this.note("");
    this.clearBuild();
    this.count();
  }

  clearBuild() { // also after a resync: what came before belongs to another log
    Object.assign(this, { stages: new Map(), sections: new Map(), pictures: 0 });
    $(".timeline", this.root).replaceChildren(...STAGES.map(upcoming));
    $(".snapshot", this.root).replaceChildren(el("p", "", "The first picture is on its way"));
    $(".docs", this.root).replaceChildren(el("h3", "", "Documentation"), el("p", "empty", "Written while the build runs."));
  }

  put(name, value) { $(`.${name}`, this.root).textContent = value; }
  /* One line about the state. A reconnect stays in it until the build ends. */
  note(words, tone = "") { const note = $(".note", this.root); note.textContent = words; note.dataset.tone = tone; }

  count() {
    Object.assign(this.root.dataset, { lastId: this.last ?? "", missing: this.missing, events: this.events });
    this.root.toggleAttribute("data-hole", this.missing > 0);
    this.put("events", this.events);
    this.put("missing", this.missing);
    this.put("beats", this.beats);
    if (!$(".note", this.root).dataset.tone) this.note(this.last ? `In order up to ${tail(this.last)}` : "Waiting for the first event");
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

  /* Events that arrive at once after opening are replayed ones: they count as caught up, not as latency. */
  opened() {
    this.burst = { from: this.last, caught: 0, missing: this.missing, until: Date.now() + 2_000 };
    this.settleIn(500);
    this.ping();
  }

  settleIn(ms) {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settle(), Math.min(ms, Math.max(0, this.burst.until - Date.now())));
  }

  settle() {
    clearTimeout(this.settling);
    const { from, caught, missing } = this.burst;
    this.burst = null;
    if (!from) return;
    const lost = this.missing - missing;
    this.root.dataset.caughtUp = caught;
    this.note(`Resumed after ${tail(from)}: ${plural(caught, "event")} caught up, ${lost} missing`, lost ? "warn" : "good");
  }

  ended(why) {
    if (this.burst) this.settle();
    if (why) this.note(why, "warn");
    else if (!this.root.dataset.caughtUp) this.note(`Complete: ${plural(this.events, "event")}, ${this.missing} missing`, this.missing ? "warn" : "good");
    page.changed();
  }

  event(event, id) {
    page.log(this.kind, event, id);
    if (!this.accept(id)) return;
    this.events += 1;
    if (this.burst) { this.burst.caught += 1; this.settleIn(200); }
    else if (typeof event.ts === "number") this.put("latency", `${Math.max(0, Date.now() - event.ts)} ms`); // two clocks may disagree
    this.apply(event);
    this.count();
    page.changed();
  }

  control(type, frame) {
    if (type === "heartbeat") { this.beats += 1; this.beatAt = Date.now(); }
    else page.log(this.kind, { type, ...frame }, null);
    if (type === "gap") this.note(`The hub reports a gap (${text(frame.reason)}); showing its latest state`, "warn");
    if (type === "resync") { this.clearBuild(); this.note(`Position unknown to the hub (${text(frame.reason)}); showing its latest state`, "warn"); }
    if (type === "reconnect") this.note("The server is restarting; coming back by itself", "warn");
    if (type === "state") this.applyState(frame);
    if (type === "end" && frame.status) this.status = text(frame.status);
    this.count();
    page.changed();
  }

  applyState(state) { // the hub's word on where the job is: stands in for events that are gone
    const events = Object.values(state.last ?? {}).sort((a, b) => (a.ts ?? 0) - (b.ts ?? 0));
    for (const event of events) this.apply(event);
    if (state.status) this.status = text(state.status);
    const [epoch, seq] = (state.position ?? "").split("-");
    const [lastEpoch, lastSeq] = (this.last ?? "").split("-");
    if (epoch && epoch === lastEpoch) this.missing += Math.max(0, +seq - +lastSeq);
    if (epoch) this.last = state.position;
    if (this.burst) this.burst.from = null; // this was not a resume; the note above says what it was
  }

  apply(event) {
    if (event.status) this.status = text(event.status);
    if (event.type === "build.stage.started") this.stageStarted(event);
    if (event.type === "build.stage.completed") this.stageCompleted(event);
    if (event.type === "snapshot.updated") this.showPicture(event);
    if (event.type === "documentation.updated") this.writeSection(event);
  }

  stageStarted(event) {
    const terminal = TERMINAL.has(event.status);
    const name = text(event.stage || event.status);
    this.narration = text(event.narration);
    this.steps = event.steps ?? this.steps;
    if (!terminal) this.step = (event.step ?? this.stages.size + 1) - 1;
    for (const stage of this.stages.values()) // a stage without its completion ends when the next begins
      if (stage.item.dataset.status === "running" && stage.item.dataset.stage !== name) closeStage(stage, event.status === "failed" ? "failed" : "done");
    const stage = this.stages.get(name) ?? this.addStage(name);
    stage.began = this.burst && event.ts ? event.ts : Date.now();
    $(".said", stage.item).textContent = this.narration;
    stage.item.dataset.status = terminal ? (event.status === "ready" ? "done" : "failed") : "running";
    if (terminal) for (const item of this.root.querySelectorAll(".upcoming")) item.remove();
  }

  addStage(name) {
    const item = el("li", "stage");
    item.dataset.stage = name;
    item.append(el("span", "name", name), el("span", "took"), el("span", "said"));
    const list = $(".timeline", this.root);
    const placeholder = [...list.querySelectorAll(".upcoming")].find((li) => li.dataset.next === name);
    if (placeholder) placeholder.replaceWith(item);
    else list.insertBefore(item, $(".upcoming", list));
    const stage = { item, began: Date.now() };
    this.stages.set(name, stage);
    return stage;
  }

  stageCompleted(event) {
    const name = text(event.stage);
    const stage = this.stages.get(name) ?? this.addStage(name);
    closeStage(stage, "done", typeof event.duration === "number" ? event.duration * 1000 : undefined);
    this.step = event.step ?? this.step + 1;
    this.steps = event.steps ?? this.steps;
  }

  showPicture(event) {
    const url = pictureUrl(event.url);
    if (!url) return;
    this.pictures += 1;
    const image = el("img");
    image.alt = `The build as it looks now, picture ${this.pictures}`;
    image.referrerPolicy = "no-referrer";
    const frame = $(".snapshot", this.root);
    const caption = el("figcaption", "", `Picture ${this.pictures}`);
    // The old picture stays underneath until this one has loaded, so that nothing flashes.
    image.onload = () => { while (image.previousSibling) image.previousSibling.remove(); };
    image.src = url;
    $("figcaption", frame)?.remove();
    frame.append(image, caption);
  }

  writeSection(event) {
    const box = $(".docs", this.root);
    const name = text(event.section);
    let section = this.sections.get(name);
    if (!section) {
      section = el("section", "doc-section");
      section.dataset.section = name;
      section.append(el("h4", "", name), el("p"));
      this.sections.set(name, section);
      $(".empty", box)?.remove();
      box.append(section);
    }
    $("p", section).textContent = text(event.content);
    box.scrollTop = box.scrollHeight;
  }

  progress() {
    if (this.status === "ready") return 1;
    const total = this.steps || Math.max(STAGES.length, this.stages.size);
    return Math.min(.98, this.step / total);
  }

  ping() {
    if (this.kind !== "ws") return;
    this.asked = { ref: (this.asked?.ref ?? 0) + 1, at: performance.now() }; // one at a time: an unanswered ping is of no further interest
    this.link.send({ op: "ping", ref: this.asked.ref });
  }

  tick(now) {
    this.link.watchdog();
    for (const { item, began } of this.stages.values())
      if (item.dataset.status === "running") $(".took", item).textContent = seconds(Math.max(0, now - began));
    const silent = now - this.link.heard;
    const age = this.beats ? `${Math.round((now - this.beatAt) / 1000)} s ago` : "none yet";
    if (this.link.state !== "ended") $(".beats", this.root).replaceChildren(`${this.beats} `, el("small", "", age));
    if (this.link.state === "stale") $(".light", this.root).textContent = `stale, silent for ${Math.round(silent / 1000)} s`;
  }
}

function upcoming(name) {
  const item = el("li", "upcoming");
  item.dataset.next = name;
  item.append(el("span", "name", name));
  return item;
}

function closeStage(stage, status, took = Date.now() - stage.began) {
  stage.item.dataset.status = status;
  $(".took", stage.item).textContent = seconds(Math.max(0, took));
}

/* ---------- the page: which job, which transports, the headline ---------- */

const page = {
  jobs: [], job: null, title: "", mode: "both",

  active() { return panels.filter((panel) => this.mode === "both" || panel.kind === this.mode); },
  ended() { return Boolean(this.job) && this.active().every((panel) => panel.link.state === "ended"); },

  watch(job) {
    this.job = job;
    this.title = this.jobs.find((entry) => entry.job_id === job)?.title ?? job;
    document.body.dataset.job = job;
    history.replaceState(null, "", `?job=${encodeURIComponent(job)}`);
    for (const panel of this.active()) panel.watch(job);
    this.listJobs();
    this.changed();
  },

  setMode(mode) { // a hidden panel's connection is closed; when it comes back it resumes like after any other cut
    this.mode = $("#panels").dataset.mode = mode;
    for (const button of document.querySelectorAll(".segmented button")) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    for (const panel of panels) {
      const wanted = this.active().includes(panel);
      panel.root.hidden = !wanted;
      if (!wanted) panel.link.pause();
      else if (this.job && panel.link.job !== this.job) panel.watch(this.job);
      else if (this.job && !panel.link.watching && !panel.link.finished) panel.link.connect("reconnecting");
      else if (panel.link.finished) panel.link.set("ended");
    }
    this.changed();
  },

  cut() {
    if (this.ended() || this.cutUntil) return;
    this.cutUntil = Date.now() + CUT_FOR;
    for (const panel of this.active()) {
      if (panel.link.finished) continue;
      panel.link.cut(CUT_FOR);
      clearTimeout(panel.settling);
      panel.note(`Cut after ${tail(panel.last) || "nothing yet"}; the build goes on without us`, "warn");
    }
  },

  /* The headline shows the panel that is further. Requested after each change, drawn once per frame. */
  changed() {
    if (this.drawing) return;
    this.drawing = true;
    setTimeout(() => { this.drawing = false; this.draw(); }, 60); // also lets a replay speak its last sentence only
  },

  draw() {
    const lead = this.active().reduce((best, panel) => panel.events > best.events ? panel : best);
    const done = Math.round(lead.progress() * 100);
    this.say("#title", this.title || "Waiting for a build");
    this.say("#narration", lead.narration ?? "");
    this.say("#status", lead.status);
    $("#status").hidden = !lead.status;
    $("#status").dataset.status = $("#progress").dataset.status = lead.status;
    $("#progress").setAttribute("aria-valuenow", done);
    $("#progress i").style.setProperty("--done", done / 100);
    document.title = this.title ? `${this.title}: ${lead.status || "waiting"} · push-hub` : "Live build · push-hub";
  },

  say(selector, words) { const node = $(selector); if (node.textContent !== words) node.textContent = words; },

  tick() {
    const now = Date.now();
    for (const panel of this.active()) panel.tick(now);
    if (this.cutUntil && now >= this.cutUntil) this.cutUntil = 0;
    $("#cut").setAttribute("aria-disabled", Boolean(this.cutUntil) || this.ended());
    this.say("#cut", this.cutUntil ? `Back in ${seconds(this.cutUntil - now)}` : "Cut the connection");
  },

  log(via, event, id) {
    const row = el("div", id || !CONTROL.has(event.type) ? "raw-row" : "raw-row control");
    row.dataset.id = id ?? "";
    row.dataset.via = via;
    const time = new Date().toTimeString().slice(0, 8);
    row.append(el("span", "", time), el("span", "via", via), el("span", "", id ?? "–"), el("code", "", JSON.stringify(event)));
    row.hidden = !this.matches(row);
    const rows = $("#rows");
    rows.prepend(row);
    if (rows.children.length > LOG_ROWS) rows.lastChild.remove();
    this.countRows();
  },

  matches(row) { return row.textContent.toLowerCase().includes($("#filter").value.trim().toLowerCase()); },
  filter() { for (const row of $("#rows").children) row.hidden = !this.matches(row); this.countRows(); },
  countRows() {
    const all = $("#rows").children.length;
    const shown = all - $("#rows").querySelectorAll("[hidden]").length;
    $("#log-count").textContent = shown === all ? plural(all, "row") : `${shown} of ${plural(all, "row")}`;
  },

  async fetchJobs() {
    try {
      const answer = await fetch("/demo/jobs");
      if (answer.ok) this.jobs = (await answer.json()).jobs ?? [];
    } catch { /* the server is away; the next poll asks again */ }
    this.listJobs();
  },

  listJobs() {
    const picker = $("#picker");
    if (document.activeElement === picker && picker.options.length) return; // never rebuild a list somebody is reading
    const known = this.jobs.some((entry) => entry.job_id === this.job);
    const entries = known || !this.job ? this.jobs : [{ job_id: this.job, title: this.title, status: "" }, ...this.jobs];
    picker.replaceChildren(...entries.map((entry) => {
      const option = el("option", "", text(entry.title) || entry.job_id);
      option.value = entry.job_id;
      return option;
    }));
    picker.value = this.job ?? "";
  },

  /* The next run of the build: another job with the same title, or the same name before the run number. */
  nextRun() {
    const stem = (job) => job.replace(/-[^-]*$/, "");
    return this.jobs.find((entry) => entry.job_id !== this.job && (entry.title === this.title || stem(entry.job_id) === stem(this.job)));
  },

  async poll() {
    const waiting = !this.job || (this.ended() && $("#follow").checked);
    this.polls = (this.polls ?? 0) + 1;
    if (!waiting && this.polls % 4) return; // otherwise the picker is content with news every 8 s
    await this.fetchJobs();
    if (!this.job) this.start();
    else if (this.ended() && $("#follow").checked && this.nextRun()) this.watch(this.nextRun().job_id);
  },

  start() {
    const asked = new URLSearchParams(location.search).get("job");
    const first = this.jobs.find((entry) => !TERMINAL.has(entry.status)) ?? this.jobs[0];
    if (asked || first) this.watch(asked || first.job_id);
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

const panels = [new Panel("sse", "Server-Sent Events", "sse"), new Panel("ws", "WebSocket", "websocket")];

$("#theme").addEventListener("click", () => theme.toggle());
$("#cut").addEventListener("click", () => page.cut());
$("#filter").addEventListener("input", () => page.filter());
$("#picker").addEventListener("change", (event) => page.watch(event.target.value));
for (const button of document.querySelectorAll(".segmented button")) button.addEventListener("click", () => page.setMode(button.dataset.mode));

setInterval(() => page.tick(), 100);
setInterval(() => { for (const panel of panels) panel.ping(); }, PING_EVERY);
setInterval(() => page.poll(), 2_000);
page.fetchJobs().then(() => { page.start(); document.body.dataset.ready = "true"; });
