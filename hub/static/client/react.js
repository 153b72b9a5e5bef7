// For React 18 and later: const { state, status, error } = useJob("build-42");
import { useMemo, useSyncExternalStore } from "react";
import { UNKNOWN, watch } from "./hub.js";

const NOTHING = Object.freeze({ state: UNKNOWN, status: "connecting", error: null });

/** The job's state, folded from its events, how the watch goes, and why it failed. `options` are those of `watch`, and are
 * looked at when `id` changes. The watch begins when the component is mounted, and ends when it is not. */
export function useJob(id, options) {
  const store = useMemo(() => {
    let view = NOTHING;
    return {
      subscribe(changed) {
        const job = watch(id, options);
        job.addEventListener("change", () => {
          view = { state: job.state, status: job.status, error: job.error };
          changed();
        });
        return () => job.close();
      },
      getSnapshot: () => view,
    };
  }, [id]);
  return useSyncExternalStore(store.subscribe, store.getSnapshot, () => NOTHING);
}
