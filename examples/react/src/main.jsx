// A build in React: `npm install && npm run build`, or `npm run dev` beside `python examples/mount.py`.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useJob } from "push-hub/react";

function Build({ id }) {
  const { state, status, error } = useJob(id);
  if (error) return <p role="alert">{error.message}</p>;
  return (
    <section>
      <h1>{id}: {state.status ?? status}</h1>
      <ol>
        {state.stages.map((stage) => (
          <li key={stage.name}>{stage.name} {stage.done ? `${stage.duration} s` : stage.narration}</li>
        ))}
      </ol>
      {state.snapshot && <img src={state.snapshot} alt="The latest picture" />}
    </section>
  );
}

function Page() {
  const [id, setId] = useState(new URLSearchParams(location.search).get("job") ?? "a-job");
  return (
    <>
      <input aria-label="The job" value={id} onChange={(event) => setId(event.target.value)} />
      <Build id={id} />
    </>
  );
}

createRoot(document.getElementById("root")).render(<StrictMode><Page /></StrictMode>);
