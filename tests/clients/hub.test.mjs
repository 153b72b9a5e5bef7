// The pure part of hub.js, by Node's own runner.
import assert from "node:assert/strict";
import test from "node:test";
import { UNKNOWN, Watch, WatchError, backoff, eventStream, fold, isNews } from "../../hub/static/client/hub.js";

test("an id is news if it is later, or of another numbering", () => {
  assert.equal(isNews("5-0", null), true);
  assert.equal(isNews("5-1", "5-0"), true);
  assert.equal(isNews("5-0", "5-0"), false);
  assert.equal(isNews("5-9", "5-10"), false);
  assert.equal(isNews("5-18446744073709551615", "5-18446744073709551614"), true);
  assert.equal(isNews("4-9", "5-1"), true);
});

test("waits grow, are jittered over their upper half, and are bounded", () => {
  for (const random of [() => 0, () => 0.999]) {
    const waits = [...Array(12).keys()].map((attempt) => backoff(attempt, { random }));
    assert.deepEqual(waits, [...waits].sort((a, b) => a - b));
    assert.ok(waits.at(-1) <= 30_000 && waits.at(-1) >= 15_000);
  }
  assert.ok(backoff(0, { random: () => 0 }) >= 250);
  assert.ok(backoff(0, { floor: 5000 }) >= 5000);
});

const STREAM = "\uFEFFretry: 3\nid: 1-1\nevent: hello\ndata: {\"a\":1}\n\n: comment\r\n\r\nid: 1-2\rdata: x\r\rdata:y\ndata: z\n\nevent: lost\n\ndata: last\n";

test("an event stream is parsed as the HTML standard says, wherever it is cut", () => {
  const expected = [
    { event: "hello", data: '{"a":1}', id: "1-1" },
    { event: "message", data: "x", id: "1-2" },
    { event: "message", data: "y\nz", id: "1-2" },
  ];
  for (let size = 1; size <= STREAM.length; size += 1) {
    const parse = eventStream(), seen = [];
    for (let at = 0; at < STREAM.length; at += size) seen.push(...parse(STREAM.slice(at, at + size)));
    assert.deepEqual(seen, expected, `pieces of ${size}`);
  }
});

test("events of the catalogue fold into a state, and nothing else changes it", () => {
  const events = [
    { type: "hello", attempt: 1 },
    { type: "build.stage.started", stage: "code", narration: "go", status: "code" },
    { type: "build.stage.started", stage: "deps" },
    { type: "build.stage.completed", stage: "code", duration: 1.5 },
    { type: "snapshot.updated", url: "a.png" },
    { type: "documentation.updated", section: "A", content: "a" },
    { type: "render", progress: 0.5 },
    { type: "end", status: "ready" },
  ];
  const state = events.reduce(fold, UNKNOWN);
  assert.deepEqual(state, {
    status: "ready", attempt: 1, progress: 0.5, snapshot: "a.png", documentation: { A: "a" }, ended: true,
    stages: [{ name: "code", done: true, narration: "go", duration: 1.5 },
      { name: "deps", done: false, narration: null, duration: null }],
  });
  assert.equal(fold(state, { type: "heartbeat" }), state);
  assert.equal(fold(state, { type: "hello", attempt: 1 }), state);
  assert.deepEqual(fold(state, { type: "hello", attempt: 2 }), { ...UNKNOWN, attempt: 2 });
  const back = fold(UNKNOWN, { type: "state", status: "deps", attempt: 1, last: { "snapshot.updated": { type: "snapshot.updated", url: "b" } } });
  assert.deepEqual([back.status, back.snapshot, back.attempt], ["deps", "b", 1]);
});

test("what cannot be is said at once", () => {
  assert.throws(() => new Watch("a", { url: "http://h", transport: "carrier pigeon" }), WatchError);
  assert.throws(() => new Watch("a", { url: "http://h", transport: "websocket", token: "t" }), /cookie or a ticket/);
});
