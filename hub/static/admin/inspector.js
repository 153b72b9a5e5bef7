// The inspector: figures come over a WebSocket while the page is seen, and over HTTP where that is not let through.
// Text of others is only ever text.

const AGAIN = 2000; // milliseconds until the WebSocket is tried once more
const ROWS = 50; // jobs of an answer; of more, each process counts its own
const CUT = ["blocked", "unanswered", "too_slow", "gap", "overloaded", "flood", "not_text", "too_big", "failed"]; // by the hub
const WHY = { left: "client left", ended: "job ended", blocked: "took no bytes", unanswered: "did not answer pings" }; // as in the tables
const CALM = ["client left", "job ended", "stream is old, resume", "server restarts, resume", "expired", "revoked"];
const LATELY = 600; // seconds
const $ = (id) => document.getElementById(id);
const number = (value) => Math.round(value).toLocaleString("en");
const clock = (at) => new Date(at * 1000).toLocaleTimeString();
const bytes = (value) => value >= 1 << 20 ? `${(value / (1 << 20)).toFixed(1)} MB` : value >= 1024 ? `${(value / 1024).toFixed(1)} KB` : `${value} B`;
const seconds = (value) => value < 0.001 ? `${value * 1e6} µs` : value < 1 ? `${value * 1000} ms` : `${value} s`;

function span(value) {
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} days`;
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  if (text instanceof Node) made.append(text);
  else made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, act, className = "") {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

// `columns`: [title, row -> text or node, "number" for figures]
function table(id, columns, rows, nothing) {
  const head = element("tr", "");
  for (const [title, , kind] of columns) head.append(element("th", title, kind ?? ""));
  const lines = rows.map((row) => {
    const line = element("tr", "");
    for (const [, cell, kind] of columns) line.append(element("td", cell(row), kind ?? ""));
    return line;
  });
  if (!rows.length) {
    const cell = element("td", nothing, "quiet");
    cell.colSpan = columns.length;
    lines.push(element("tr", cell));
  }
  $(id).replaceChildren(element("thead", head), ...lines);
}

let first = null;   // the first answer, for what has happened since the page was opened
let before = null;  // the answer before, and when it came
let chosen = new URLSearchParams(location.hash.slice(1)).get("job") ?? "";
let source = null;
let names = {};     // host:pid by process

const sum = (answer, name) => answer.processes.reduce((total, one) => total + (one.totals[name] ?? 0), 0);

async function ask(path, body) {
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
  const answer = await fetch(`/admin/${path}`, { ...options, cache: "no-store" });
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error(`the hub answered ${answer.status}`);
  return answer.status === 204 ? {} : await answer.json();
}

function rate(now, name) {
  if (!before) return "–";
  const passed = (now.at - before.at) / 1000;
  const change = now.processes.reduce((total, one) => {
    const old = before.processes.find((other) => other.process === one.process);
    return total + (old ? one.totals[name] - old.totals[name] : 0);
  }, 0);
  return `${number(change / passed)}/s`;
}

function drawNumbers(now) {
  const lost = sum(now, "gaps") + sum(now, "resyncs");
  const cards = [
    ["viewers", number(sum(now, "viewers"))], ["viewers cut off", number(CUT.reduce((total, name) => total + sum(now, `closed_${name}`), 0))],
    ["jobs watched", number(now.jobs.length < ROWS ? now.jobs.length : sum(now, "jobs"))],
    ["joins", rate(now, "opened")], ["messages", rate(now, "messages")], ["deliveries", rate(now, "deliveries")],
    ["of event memory", `${Math.ceil(100 * sum(now, "held_bytes") / Math.max(1, sum(now, "memory_bytes")))} %`],
    ["gaps and resyncs", number(lost)], ["stalls", number(sum(now, "stalls"))], ["workers lost", number(sum(now, "workers_lost"))],
  ];
  // Red is what has happened lately; the figures are since the processes began.
  const grown = (...all) => all.some((name) => sum(now, name) > sum(first, name));
  const alarming = {
    "viewers cut off": now.gone.some((row) => !CALM.includes(row.why) && now.at / 1000 - row.at < LATELY),
    "gaps and resyncs": grown("gaps", "resyncs"), stalls: grown("stalls"), "workers lost": grown("workers_lost"),
  };
  $("numbers").replaceChildren(...cards.map(([name, value]) => {
    const card = element("div", "");
    card.append(element("b", value, alarming[name] ? "bad" : ""), element("span", name, "quiet"));
    return card;
  }));
}

function drawProcesses(now) {
  names = Object.fromEntries(now.processes.map((one) => [one.process, `${one.host}:${one.pid}`]));
  const redis = (one) => one.totals.connected ? element("span", "connected", "good") : element("span", "away", "bad");
  const state = (one) => one.totals.draining ? element("span", "draining", "bad") : "serves";
  table("processes", [
    ["process", (one) => names[one.process]], ["state", state], ["Redis", redis], ["up", (one) => span(Date.now() / 1000 - one.since)],
    ["version", (one) => one.version], ["viewers", (one) => number(one.totals.viewers), "number"], ["jobs", (one) => number(one.totals.jobs), "number"],
    ["messages waiting", (one) => number(one.totals.inbox), "number"], ["memory of events", (one) => bytes(one.totals.held_bytes), "number"],
    ["Redis reconnects", (one) => number(one.totals.redis_reconnects), "number"],
  ], now.processes, "no process answered");
}

function drawJobs(now) {
  const passed = before ? (now.at - before.at) / 1000 : 0;
  const old = new Map((before?.jobs ?? []).map((row) => [row.job_id, row.events]));
  const pace = (row) => passed && old.has(row.job_id) ? ((row.events - old.get(row.job_id)) / passed).toFixed(1) : "–";
  const late = (row) => row.behind ? element("span", number(row.behind), "bad") : "0";
  table("jobs", [
    ["job", (row) => button(row.job_id, () => choose(row.job_id), "link")], ["status", (row) => row.status], ["owner", (row) => row.user],
    ["viewers", (row) => number(row.viewers), "number"], ["events/s", pace, "number"], ["behind", late, "number"],
    ["paused", (row) => number(row.paused), "number"], ["window", (row) => `${number(row.window_events)} events`, "number"],
    ["bytes", (row) => bytes(row.window_bytes), "number"], ["processes", (row) => number(row.processes), "number"],
  ], now.jobs, "no job is watched");
}

function drawTimings(now) {
  const counted = (answer, name) => answer.bounds.concat(Infinity).map((_, at) =>
    answer.processes.reduce((total, one) => total + (one.timings[name]?.[at] ?? 0), 0));
  const titles = { "delivery redis": "Redis answers a PING", "delivery queue": "A message waits for its turn", "delivery write": "A write to one viewer",
    fanout: "A batch to all viewers of its job", "join sse": "A join over SSE", "join websocket": "A join over WebSocket", "join dashboard": "A job joins a dashboard" };
  const parts = Object.entries(titles).map(([name, title]) => {
    const start = counted(first, name);
    const since = counted(now, name).map((count, at) => Math.max(0, count - start[at]));
    const counts = since.some((count) => count) ? since : counted(now, name);
    const all = counts.reduce((total, count) => total + count, 0);
    const upTo = (share) => {
      let reached = 0;
      const at = counts.findIndex((count) => (reached += count) >= share * all && all);
      return at < 0 ? "–" : at < now.bounds.length ? `≤ ${seconds(now.bounds[at])}` : `> ${seconds(now.bounds.at(-1))}`;
    };
    const box = element("div", "", "timing");
    const line = element("p", "");
    line.append(element("span", title), element("span", `${number(all)}; half ${upTo(0.5)}, 99 % ${upTo(0.99)}`, "quiet"));
    const bars = element("div", "", "bars");
    const highest = Math.max(1, ...counts);
    counts.forEach((count, at) => {
      const bar = element("i", "");
      bar.style.setProperty("height", `${100 * count / highest}%`);
      bar.title = `${number(count)} up to ${at < now.bounds.length ? seconds(now.bounds[at]) : "ever"}`;
      bars.append(bar);
    });
    const scale = element("div", "", "scale");
    scale.append(element("span", seconds(now.bounds[0])), element("span", `${seconds(now.bounds.at(-1))} and more`));
    box.append(line, bars, scale);
    return box;
  });
  $("timings").replaceChildren(...parts);
  $("span").textContent = `Since this page was opened ${span((now.at - first.at) / 1000)} ago; before anything happened, since the processes began.`;
}

function drawReasons(now) {
  const reasons = Object.keys(now.processes[0]?.totals ?? {}).filter((name) => /^(auth_refused|closed)_|^(refused|unavailable|commands_refused)$/.test(name));
  const words = (name) => name.replace(/^auth_refused_/, "refused: ").replace(/^closed_(.*)$/, (_, why) => `went: ${WHY[why] ?? why}`).replaceAll("_", " ")
    .replace(/^refused$/, "refused: at a cap").replace(/^unavailable$/, "refused: Redis did not answer");
  const rows = reasons.map((name) => [words(name), sum(now, name), sum(now, name) - sum(first, name)]).filter(([, total]) => total).sort((a, b) => b[2] - a[2] || b[1] - a[1]);
  table("reasons", [["reason", (row) => row[0]], ["since the page was opened", (row) => number(row[2]), "number"], ["ever", (row) => number(row[1]), "number"]], rows, "nobody yet");
}

function drawGone(id, rows) {
  const why = (row) => ["client left", "job ended"].includes(row.why) ? row.why : element("span", row.why, "bad");
  table(id, [["at", (row) => clock(row.at)], ["job", (row) => button(row.job, () => choose(row.job), "link")], ["user", (row) => row.user],
    ["why", why], ["process", (row) => names[row.process] ?? ""]], rows, "nobody yet");
}

function drawIncidents(now) {
  const lines = now.incidents.map((one) => {
    const line = element("li", "");
    line.append(element("span", `${clock(one.at)} ${names[one.process] ?? ""} ${one.logger}: `, "quiet"), one.said);
    return line;
  });
  $("incidents").replaceChildren(...(lines.length ? lines : [element("li", "none yet", "quiet")]));
}

function drawJob(found) {
  $("job").textContent = chosen;
  const rows = found?.watched ?? [];
  const total = rows.reduce((count, row) => count + row.viewers, 0);
  $("about").textContent = rows.length
    ? `${rows[0].status}, owned by ${rows[0].user}, at ${rows[0].position}: ${number(total)} viewers at ${rows.length} processes.`
    : "Nobody watches it now.";
  const late = (row) => row.behind ? element("span", number(row.behind), "bad") : "0";
  table("watching", [
    ["user", (row) => row.user], ["transport", (row) => row.transport], ["position", (row) => row.position], ["behind", late, "number"],
    ["unsent", (row) => bytes(row.unsent), "number"], ["paused", (row) => row.paused ? element("span", "paused", "bad") : ""],
    ["types", (row) => row.types.join(", ") || "all"], ["for", (row) => span(row.seconds), "number"],
    ["until", (row) => row.ends_in === null ? "" : span(row.ends_in), "number"], ["process", (row) => names[row.process] ?? ""],
    ["", (row) => actions(row.user)],
  ], found?.watching ?? [], "nobody");
  drawGone("job-gone", found?.gone ?? []);
}

function actions(user) {
  const both = element("span", "");
  both.append(button("Send away", () => act("api/away", { job: chosen, user })), " ",
    button("Revoke", () => confirm(`Take back everything that ${user} was given until now?`) && act("revoke", { user })));
  return both;
}

async function act(path, body) {
  try {
    await ask(path, body);
  } catch (error) {
    say(String(error.message ?? error), true);
  }
  setTimeout(refresh, 300);
}

function choose(job) {
  chosen = job;
  source?.close();
  source = null;
  $("watch").textContent = "Watch";
  $("frames").replaceChildren();
  history.replaceState(null, "", job ? `#${new URLSearchParams({ job })}` : location.pathname);
  refresh();
}

function watch() {
  if (source) return choose(chosen);
  $("watch").textContent = "Stop";
  source = new EventSource(`/admin/api/jobs/${encodeURIComponent(chosen)}/stream`);
  const show = (event) => {
    $("frames").prepend(element("li", `${event.type === "message" ? "" : `${event.type} `}${event.data}`));
    while ($("frames").childElementCount > 200) $("frames").lastChild.remove();
  };
  for (const kind of ["message", "hello", "state", "gap", "resync", "reconnect"]) source.addEventListener(kind, show);
  source.addEventListener("end", (event) => { show(event); source?.close(); });
}

function say(words, bad) {
  $("state").textContent = words;
  $("state").className = bad ? "bad" : "";
}

function draw(now) {
  now.at = Date.now();
  first ??= now;
  drawNumbers(now);
  drawProcesses(now);
  drawJobs(now);
  drawTimings(now);
  drawReasons(now);
  drawGone("gone", now.gone);
  drawIncidents(now);
  $("one").hidden = !chosen;
  $("all").hidden = Boolean(chosen);
  if (chosen && (now.job_id ?? "") === chosen) drawJob(now.job);
  if (!before || now.at - before.at > 700) before = now; // a rate needs some time
  const silent = now.asked - now.processes.length;
  say(silent > 0 ? `${silent} of ${now.asked} processes did not answer` : `live, ${now.processes.length === 1 ? "one process" : `${now.processes.length} processes`}`, silent > 0);
  document.body.dataset.ready = "true";
}

// Over HTTP, once.
async function look() {
  const job = chosen;
  try {
    const now = await ask("api/overview");
    if (!now) throw new Error("this is no operator's port any more");
    draw({ ...now, job_id: job, job: job ? await ask(`api/jobs/${encodeURIComponent(job)}`) : null });
  } catch (error) {
    say(`no answer: ${error.message ?? error}`, true);
  }
}

let socket = null;

function live() {
  if (socket || document.hidden) return;
  socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/admin/api/live`);
  socket.onopen = refresh;
  socket.onmessage = ({ data }) => draw(JSON.parse(data));
  socket.onclose = () => {
    socket = null;
    if (document.hidden) return;
    look();
    setTimeout(live, AGAIN);
  };
}

function refresh() {
  if (socket?.readyState === 1) socket.send(JSON.stringify({ job: chosen || null }));
  else if (!socket) look();
}

$("back").addEventListener("click", () => choose(""));
$("watch").addEventListener("click", watch);
$("away").addEventListener("click", () => act("api/away", { job: chosen }));
$("find").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.value.trim()) choose(event.target.value.trim()); });
document.addEventListener("visibilitychange", () => document.hidden ? socket?.close() : live());
live();
