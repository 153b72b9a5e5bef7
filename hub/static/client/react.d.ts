import type { JobState, Options, Status, WatchError } from "./hub.js";

/** Watches a job while the component is mounted. `options` are looked at when `id` changes. */
export function useJob<S = JobState>(id: string, options?: Options<S>): { state: S; status: Status; error: WatchError | null };
