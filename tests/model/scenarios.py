"""The scenarios. All schedules of those in `EVERY` are played; of those in `SEEDED` only random ones."""

from __future__ import annotations

from tests.model.world import Scenario

EVERY = [
    # joins, against the first event, the end, and each other
    Scenario("attach", {"ada": "join", "worker": "event ready"}),
    Scenario("attach-fine", {"ada": "join", "worker": "ready"}, preempt=2),
    Scenario("attach-leave", {"ada": "join leave join", "worker": "ready"}),
    Scenario("first-viewers", {"ada": "join", "bob": "join", "worker": "event"}),
    Scenario("first-leaves", {"ada": "join leave", "bob": "join"}, preempt=1),
    Scenario("attach-fails", {"ada": "join", "bob": "join", "net": "fail"}),
    Scenario("attach-cut", {"ada": "join", "net": "cut mend", "worker": "event"}),
    Scenario("foreign-attach", {"ada": "join", "worker": "foreign foreign-ready"}, log=False),
    Scenario("hash-end", {"ada": "join", "worker": "hash", "hub": "check"}),
    # live events, and losses under way
    Scenario("cut", {"worker": "event event ready", "net": "cut mend"}, before="ada:join worker:event"),
    Scenario(
        "drop", {"worker": "event event", "net": "drop", "hub": "check"}, before="ada:join worker:event"
    ),
    Scenario(
        "heal-fails", {"worker": "event ready", "net": "drop fail fail", "hub": "check"}, before="ada:join"
    ),
    Scenario(
        "foreign-cut",
        {"worker": "foreign foreign", "net": "cut mend", "bob": "join"},
        before="ada:join",
        log=False,
    ),
    Scenario("trim", {"worker": "event event event", "net": "cut trim mend"}, before="ada:join", window=2),
    Scenario("large", {"worker": "large ready", "net": "cut mend"}, before="ada:join"),
    Scenario("lose", {"worker": "event", "net": "lose", "hub": "check"}, before="ada:join worker:event"),
    # leave, linger, return
    Scenario(
        "linger", {"ada": "leave join", "clock": "time", "worker": "event"}, before="ada:join", linger=5
    ),
    Scenario(
        "linger-held",
        {"ada": "leave", "bob": "join", "clock": "time", "worker": "event"},
        before="ada:join",
        linger=5,
    ),
    Scenario(
        "resume",
        {"ada": "leave join", "worker": "event event"},
        before="bob:join ada:join worker:event",
        window=2,
    ),
    Scenario(
        "replay",
        {"ada": "join", "worker": "event ready"},
        before="bob:join worker:event worker:event worker:event",
        window=2,
    ),
    Scenario(
        "replay-trimmed",
        {"ada": "join", "net": "trim-some trim", "worker": "event"},
        before="bob:join worker:event worker:event worker:event worker:event worker:event",
        window=2,
    ),
    Scenario(
        "fan-out",
        {"worker": "event event"},
        before="bob:join ada:join",
        slow="ada",
        every=2,
        preempt=1,
        crowd=True,
    ),
    Scenario("pump", {"worker": "event event"}, before="bob:join ada:join", slow="ada", every=2, preempt=1),
    Scenario("slow", {"worker": "event event ready"}, before="ada:join bob:join", slow="ada", window=2),
    # a hub that ends
    Scenario(
        "drain",
        {"hub": "drain", "clock": "time", "worker": "event event"},
        before="ada:join bob:join",
        slow="bob",
        hubs=2,
    ),
    Scenario(
        "drain-ended",
        {"hub": "drain", "worker": "event ready"},
        before="ada:join bob:join",
        slow="bob",
        hubs=2,
    ),
    Scenario("drain-join", {"hub": "drain", "ada": "join", "worker": "event"}, hubs=2),
    Scenario("close", {"hub": "close", "ada": "join", "worker": "event"}, hubs=2),
    Scenario(
        "close-drain",
        {"hub": "drain close", "worker": "event"},
        before="ada:join bob:join",
        hubs=2,
        preempt=1,
    ),
    Scenario(
        "close-replay",
        {"hub": "close", "ada": "join"},
        before="bob:join worker:event worker:event worker:event",
        window=2,
        hubs=2,
    ),
    Scenario(
        "behind", {"hub": "drain", "worker": "event"}, before="ada:join bob:elsewhere", hubs=2, prompt=False
    ),
    # age and lease
    Scenario("age", {"ada": "age age", "worker": "event event ready"}, before="ada:join bob:join"),
    Scenario(
        "age-slow",
        {"ada": "age", "worker": "event event ready"},
        before="ada:join bob:join",
        slow="ada",
        window=3,
    ),
    Scenario(
        "lease", {"clock": "lapse", "worker": "event ready", "hub": "check"}, before="worker:renew ada:join"
    ),
    Scenario(
        "lease-two",
        {"clock": "lapse", "worker": "ready", "hub": "check", "hub1": "check"},
        before="worker:renew ada:join",
        hubs=2,
        prompt=False,
    ),
    Scenario(
        "lease-renewed", {"clock": "lapse", "worker": "renew", "hub": "check"}, before="worker:renew ada:join"
    ),
]

SEEDED = [
    Scenario(
        "crowd",
        {
            "ada": "join leave join",
            "bob": "join age leave join",
            "cy": "join leave join",
            "worker": "event event event event event ready",
            "net": "cut mend drop cut mend",
            "hub": "check check",
        },
        wishes={"bob": "live", "cy": "-2"},
        slow="ada",
        every=2,
        crowd=True,
    ),
    Scenario(
        "crowd-small-window",
        {
            "ada": "join leave join",
            "bob": "join age",
            "cy": "leave join leave join",
            "worker": "event event event event event large event ready",
            "net": "cut trim mend fail drop",
            "hub": "check",
            "clock": "time",
        },
        before="cy:join worker:event worker:event",
        slow="ada cy",
        window=3,
        linger=5,
    ),
    Scenario(
        "foreign-crowd",
        {
            "ada": "join leave join",
            "bob": "join",
            "worker": "foreign foreign foreign foreign foreign-ready",
            "net": "cut mend cut mend",
            "hub": "check",
        },
        slow="bob",
        log=False,
    ),
    Scenario(
        "deploy",
        {
            "ada": "age leave join",
            "bob": "age",
            "worker": "event event event event ready",
            "net": "cut mend",
            "hub": "drain close",
            "clock": "time time",
        },
        before="ada:join bob:join cy:join worker:event",
        slow="bob",
        every=2,
        hubs=2,
    ),
    Scenario(
        "lease-crowd",
        {
            "ada": "join leave join",
            "worker": "event renew event ready",
            "clock": "lapse",
            "net": "cut mend",
            "hub": "check check",
            "hub1": "check",
        },
        before="worker:renew bob:elsewhere",
        hubs=2,
        prompt=False,
    ),
]

ALL = {scenario.name: scenario for scenario in [*EVERY, *SEEDED]}
