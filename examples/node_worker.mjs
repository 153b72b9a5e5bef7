// A worker in Node: `npm install redis`, then `node examples/node_worker.mjs JOB`. It publishes as any language can, by a
// bare PUBLISH of JSON; mount.py shows the job to its owner. REDIS_URL says where Redis is.
import { createClient } from "redis";

const job = process.argv[2];
const redis = await createClient({ url: process.env.REDIS_URL ?? "redis://127.0.0.1:6379/0" }).connect();

// The hub reads the job's hash: its owner, and its status for viewers who come later.
async function publish(event) {
  if (event.status) await redis.hSet(`job:${job}`, "status", event.status);
  await redis.publish(`job:${job}:events`, JSON.stringify(event));
}

await redis.hSet(`job:${job}`, { user_id: "ada", status: "building" });
for (const stage of ["scaffold", "code", "deps"]) {
  await publish({ type: "build.stage.started", stage, status: stage, narration: `Working on ${stage}` });
  await new Promise((resolve) => setTimeout(resolve, 1000)); // the work
  await publish({ type: "build.stage.completed", stage, duration: 1 });
}
await publish({ type: "build.stage.started", stage: "ready", status: "ready", narration: "It is all there" });
await redis.close();
