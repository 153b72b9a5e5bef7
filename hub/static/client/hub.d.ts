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
  readonly code: "not_found" | "unauthorized" | "too_slow" | "unsupported";
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

export class Watch<S = JobState> extends EventTarget implements AsyncIterable<HubEvent> {
  constructor(job: string, options?: Options<S>);
  readonly state: S;
  readonly status: Status;
  readonly error: WatchError | null;
  readonly position: string | null;
  readonly transport: Transport;
  /** The last state; rejects with a WatchError. */
  readonly done: Promise<S>;
  subscribe: (listener: () => void) => () => void;
  getSnapshot: () => S;
  close(): void;
  [Symbol.asyncIterator](): AsyncGenerator<HubEvent, void>;
}

export function watch<S = JobState>(job: string, options?: Options<S>): Watch<S>;
export function fold(state: JobState, event: HubEvent): JobState;
export function isNews(a: string, b: string | null): boolean;
export function backoff(attempt: number, options?: { floor?: number; random?: () => number }): number;
export function eventStream(): (text: string) => { event: string; data: string; id: string }[];
export const UNKNOWN: Readonly<JobState>;
