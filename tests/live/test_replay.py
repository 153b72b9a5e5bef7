"""A replay is each viewer's own copy of the past, so it is sent in pieces."""

from __future__ import annotations

from hub.engine.caller import Caller
from hub.fanout.audience import CHUNK
from hub.job.cursor import Wish


async def test_the_past_comes_in_full_writes_however_large_its_events(start_hub):
    """All events come, in pieces not much larger than a write buffer."""
    async with start_hub(window_events=5) as live:
        await live.jobs.create_job("a", user_id="ada")
        for n in range(60):
            await live.publisher.emit("a", "step", {"n": n, "fill": "x" * 20_000})
        with await live.hub.view(Caller("ada"), "a", Wish(from_="start")) as view:
            lots = []
            while frames := await live.hub.read_past(view):
                lots.append(frames)
        sizes = [sum(len(frame.event.body) for frame in frames) for frames in lots]
        assert max(sizes) < CHUNK + 25_000
        seen = [frame.event.fields["n"] for frames in lots for frame in frames]
        assert seen == list(range(len(seen)))
        assert len(seen) >= 50
