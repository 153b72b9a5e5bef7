"""docs/alerts.yml and docs/grafana.json: their metrics are there, and each alert fires for what it watches."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import httpx
import pytest
import yaml
from redis.asyncio import Redis

from hub import JobStateMachine, Publisher
from tests.faults.rig.process import Hub, RedisProcess
from tests.faults.rig.prometheus import ALERTS, BINARY, Prometheus
from tests.support.browser import ROOT
from tests.support.live import USER, operator, token

PROMTOOL = shutil.which("promtool")
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

needs_prometheus = pytest.mark.skipif(
    PROMTOOL is None or BINARY is None, reason="prometheus and promtool are missing"
)

FIRES = {
    "HubIsGone": {"up": "0x10"},
    "HubWithoutRedis": {"hub_connected": "0x10"},
    "HubRedisFlaps": {"hub_redis_reconnects_total": "0+2x10"},
    "HubRedisIsSlow": {
        'hub_delivery_latency_seconds_bucket{hop="redis",le="0.1"}': "0x10",
        'hub_delivery_latency_seconds_bucket{hop="redis",le="0.25"}': "0+20x10",
        'hub_delivery_latency_seconds_bucket{hop="redis",le="+Inf"}': "0+20x10",
    },
    "HubLosesEvents": {"hub_gaps_total": "0+1x10", "hub_resyncs_total": "0x10"},
    "HubRefusesViewers": {"hub_refused_total": "0+1x10", "hub_draining": "0x10"},
    "HubTurnsViewersAway": {"hub_unavailable_total": "0+1x10", "hub_connected": "1x10"},
    "HubCutsViewers": {'hub_closed_total{reason="blocked"}': "0+3x10", "hub_viewers": "100x10"},
    "HubWorkersLost": {"hub_workers_lost_total": "0+1x10"},
    "HubStandsStill": {"hub_stalls_total": "0+1x10"},
    "HubFallsBehind": {"hub_inbox": "2000x10"},
    "HubIsFull": {"hub_held_bytes": "950x10", "hub_memory_bytes": "1000x10"},
}
"""For each alert, series of ten minutes with which it fires."""

QUIET = {
    "up": "1x10",
    "hub_connected": "1x10",
    "hub_redis_reconnects_total": "1x10",
    'hub_delivery_latency_seconds_bucket{hop="redis",le="0.1"}': "0+20x10",
    'hub_delivery_latency_seconds_bucket{hop="redis",le="+Inf"}': "0+20x10",
    'hub_delivery_latency_seconds_bucket{hop="queue",le="0.1"}': "0+20x10",
    'hub_delivery_latency_seconds_bucket{hop="queue",le="+Inf"}': "0+20x10",
    "hub_gaps_total": "3x10",
    "hub_resyncs_total": "3x10",
    "hub_refused_total": "0+1x10",  # while it drains
    "hub_draining": "1x10",
    "hub_unavailable_total": "3x10",
    'hub_closed_total{reason="blocked"}': "0+3x10",  # of many
    'hub_closed_total{reason="left"}': "0+300x10",
    "hub_viewers": "10000x10",
    "hub_workers_lost_total": "3x10",
    "hub_stalls_total": "3x10",
    "hub_inbox": "10x10",
    "hub_held_bytes": "800x10",
    "hub_memory_bytes": "1000x10",
}


def rule_test(directory, series: dict[str, str], name: str, *, fires: bool) -> subprocess.CompletedProcess:
    """Run promtool's unit test: does the alert fire after ten minutes of `series`?"""
    (rule,) = [one for one in RULES if one["alert"] == name]

    def labelled(metric: str) -> str:
        bare, _, labels = metric.partition("{")
        return f'{bare}{{job="push-hub",instance="hub-1"{"," + labels if labels else "}"}'

    (directory / "alerts.yml").write_text(ALERTS.read_text())
    found = promtool_alerts(directory, {labelled(metric): values for metric, values in series.items()}, name)
    assert found.returncode in (0, 1), found.stderr
    said = found.stdout + found.stderr
    assert rule["annotations"]["summary"]
    happened = "got:[" in re.sub(r"\s", "", said) and "got:[]" not in re.sub(r"\s", "", said)
    assert happened is fires, said
    return found


def promtool_alerts(directory, series: dict[str, str], name: str) -> subprocess.CompletedProcess:
    """Expect an alert that there never is, so that promtool prints those that there are."""
    expected = [{"exp_labels": {"severity": "nothing"}}]
    test = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": metric, "values": values} for metric, values in series.items()],
                "alert_rule_test": [{"eval_time": "9m", "alertname": name, "exp_alerts": expected}],
            }
        ],
    }
    (directory / "test.yml").write_text(yaml.safe_dump(test))
    return subprocess.run(
        [PROMTOOL, "test", "rules", "test.yml"], cwd=directory, capture_output=True, text=True, check=False
    )


@needs_prometheus
@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
def test_each_alert_fires_for_what_it_watches_and_not_otherwise(name, tmp_path):
    rule_test(tmp_path, FIRES[name], name, fires=True)
    rule_test(tmp_path, QUIET, name, fires=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_links_to_its_line(rule):
    """And the line names the alert."""
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/operations.md"
    assert f'<a id="{anchor}"></a>`{rule["alert"]}`' in OPERATIONS
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_each_line_about_an_alert_has_one():
    assert set(re.findall(r"</a>`(\w+)`", OPERATIONS)) == {rule["alert"] for rule in RULES}


async def metrics(live) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{live.url}/metrics", headers=operator())).text


async def test_every_metric_that_is_used_is_there(live):
    text = await metrics(live)
    there = set(re.findall(r"^(\w+)(?:\{| )", text, re.MULTILINE)) | {"up"}
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for expression in [*(rule["expr"] for rule in RULES), *targets]:
        used = set(re.findall(r"\b((?:hub|process)_\w+|up)\b", expression))
        assert used, expression
        assert used <= there, expression
    for reason in re.findall(r'reason=~?"([^"]+)"', " ".join(rule["expr"] for rule in RULES)):
        for one in reason.split("|"):
            assert f'reason="{one}"' in text


@needs_prometheus
async def test_the_names_are_as_prometheus_wants_them(live):
    text = await metrics(live)
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_prometheus
def test_every_panel_is_a_query_that_parses(tmp_path):
    """Grafana fills in its variables."""
    rules = []
    for panel in DASHBOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            filled = (
                target["expr"]
                .replace("$__rate_interval", "5m")
                .replace("$job", "a")
                .replace("$instance", "b")
            )
            assert "$" not in filled
            rules.append({"record": f"panel_{len(rules)}", "expr": filled})
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(tmp_path / "panels.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) > 15


@needs_prometheus
async def test_a_real_prometheus_fires_when_things_break(tmp_path):
    """A cap, an event that is too large, a Redis that is gone, and a hub that is gone."""
    store = RedisProcess()
    hub = Hub(store.url, max_viewers=1, max_event_bytes=2000)
    prometheus = Prometheus(hub)
    try:
        await prometheus.until(lambda: prometheus.has("hub_gaps_total"))
        assert prometheus.firing() == set()
        async with Redis.from_url(store.url) as client, httpx.AsyncClient(timeout=10) as viewer:
            await JobStateMachine(client).create_job("big", user_id=USER)
            headers = {"Authorization": f"Bearer {token()}"}
            path = f"{hub.url}/api/jobs/big/events/stream"
            async with viewer.stream("GET", path, headers=headers) as answer:
                assert answer.status_code == 200
                assert (await viewer.get(path, headers=headers)).status_code == 503
                await Publisher(client).emit("big", "step", {"x": "x" * 3000})
                await prometheus.until(lambda: prometheus.firing() >= {"HubRefusesViewers", "HubLosesEvents"})
        store.kill()
        await prometheus.until(lambda: "HubWithoutRedis" in prometheus.firing())
        hub.kill()
        await prometheus.until(lambda: "HubIsGone" in prometheus.firing())
    finally:
        for process in (prometheus, hub, store):
            process.close()
