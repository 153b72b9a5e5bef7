"""The lines that `push-hub capacity` prints."""

from __future__ import annotations

from hub.bench.arithmetic import Load, Plan


def text(load: Load, plan: Plan) -> str:
    """What `load` needs, one line each."""
    per = load.viewers / plan.processes
    redis = f"a cluster of {plan.shards} primaries" if plan.is_cluster else "one, with Sentinels"
    rows = [
        ("hub processes", f"{plan.processes:,}, a core each, half busy at most; {per:,.0f} viewers each"),
        ("busy cores of the hubs", f"{plan.hub_cores:,.2f}"),
        ("processes that watch a job", f"{plan.watching:.2f} in the mean"),
        (
            "memory of the hubs",
            f"{_bytes(plan.hub_memory)}, and {_bytes(plan.kernel_memory)} in their kernels",
        ),
        ("Redis", redis),
        ("busy cores of Redis", f"{plan.redis_cores:,.2f}"),
        ("memory of Redis", _bytes(plan.redis_memory)),
        ("network to the viewers", f"{_bytes(plan.network)}/s"),
        ("joins while a process is replaced", f"{plan.joins:,.0f} a second"),
        ("breaks first", plan.first),
    ]
    return "\n".join(f"{name:33}  {words}" for name, words in rows)


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
