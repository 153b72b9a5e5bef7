export type HubEvent = { type: string; id?: string; job_id?: string; [field: string]: unknown };
export type Stage = { name: string; done: boolean; narration: string | null; duration: number | null };
export type JobState = {
  status: string | null;
  attempt: number | null;
  stages: Stage[];
  progress: number | null;
  snapshot: string | null;
  documentation: Record<string, string>;
  ended: boolean;
};
export type Status = "connecting" | "live" | "waiting" | "ended" | "failed" | "closed";
export type Transport = "websocket" | "sse" | "poll";

export class WatchError extends Error {
  constructor(code: string, message: string);
  readonly code: "not_found" | "unauthorized" | "too_slow" | "too_many" | "unsupported" | "forbidden" | "conflict" | "invalid" | "unavailable";
}

export type Options<S = JobState> = {
  /** Where the hub is; the page's own origin if not given. */
  url?: string;
  transport?: "auto" | Transport;
  types?: string[];
  from?: "start" | "live" | `-${number}`;
  /** The cursor of an earlier watch. */
  after?: string | null;
  /** A Bearer token, or a function that is called at each connect. Goes by fetch, never by WebSocket. */
  token?: string | (() => string | Promise<string>);
  /** Called once when the credentials have expired. */
  renew?: () => unknown;
  /** Tabs of a browser that watch the same job share one connection; the default. Not with a token, `from` or `after`. */
  share?: boolean;
  /** Folds events, and the control frames hello, state, gap, resync and end, into the state. */
  reduce?: (state: S, event: HubEvent) => S;
};

/** A job that is watched: an async iterator of events, an EventTarget, and a store for React. */
export class Job<S = JobState> extends EventTarget implements AsyncIterable<HubEvent> {
  private constructor();
  readonly state: S;
  readonly status: Status;
  readonly error: WatchError | null;
  /** The cursor: the `after` of a later watch. */
  readonly position: string | null;
  /** The last state; rejects with a WatchError. */
  readonly done: Promise<S>;
  subscribe: (listener: () => void) => () => void;
  getSnapshot: () => S;
  close(): void;
  /** Gives a command to the job's worker. Resolves to its id; rejects with a WatchError. */
  command(name: string, args?: Record<string, unknown>, options?: { key?: string }): Promise<string>;
  [Symbol.asyncIterator](): AsyncGenerator<HubEvent, void>;
}

export interface Watch<S = JobState> extends Job<S> {
  readonly transport: Transport;
  /** Sends a command; the answer is a "frame" event. Returns false if this is no WebSocket of this page. */
  send(command: { op: string; [field: string]: unknown }): boolean;
}
export const Watch: { new <S = JobState>(job: string, options?: Options<S>): Watch<S> };

/** Many jobs on one WebSocket. */
export class Dashboard extends EventTarget {
  constructor(options?: Pick<Options, "url" | "renew"> & { mine?: boolean; types?: string[]; viewers?: boolean });
  readonly status: Status;
  readonly error: WatchError | null;
  /** The same job is watched once; undefined after `close`. */
  send(command: { op: string; [field: string]: unknown }): boolean;
  watch<S = JobState>(job: string, options?: Pick<Options<S>, "after" | "from" | "types" | "reduce"> & { viewers?: boolean }): Job<S> | undefined;
  close(): void;
}

/** With `mine` a "job" event (`{id, job}`) for each job of the user that runs, or begins later. */
export function dashboard(options?: Pick<Options, "url" | "renew"> & { mine?: boolean; types?: string[]; viewers?: boolean }): Dashboard;

export function watch<S = JobState>(job: string, options?: Options<S>): Watch<S>;
export function fold(state: JobState, event: HubEvent): JobState;
export function isNews(a: string, b: string | null): boolean;
export function backoff(attempt: number, options?: { floor?: number; random?: () => number }): number;
export function eventStream(): (text: string) => { event: string; data: string; id: string }[];
export const UNKNOWN: Readonly<JobState>;
