"""The files of docs/deploy name settings, paths and metrics that there are, and leave time to drain."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml

from hub import Settings
from hub.totals import Totals
from hub.web.health import router

DEPLOY = Path(__file__).parent.parent / "docs/deploy"
NAMES = {f"HUB_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_setting_that_is_named_is_one(path):
    assert set(re.findall(r"HUB_[A-Z_]+[A-Z]", path.read_text())) <= NAMES


def test_kubernetes_gives_a_pod_the_time_that_it_needs():
    documents = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    assert set(documents) == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (hub,) = pod["containers"]
    given = {one["name"]: one.get("value") for one in hub["env"]}
    waits = int(hub["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits + float(given["HUB_DRAIN"]) + 15
    paths = {route.path for route in router.routes}
    assert {hub[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")} <= paths
    assert hub["livenessProbe"]["httpGet"]["path"] == "/healthz", "a hub without Redis is not killed"
    ports = {one["name"]: one["containerPort"] for one in hub["ports"]}
    assert ports["admin"] == Settings.model_fields["admin_port"].default
    (metric,) = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"].removeprefix("hub_") in Totals.__dataclass_fields__
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"] == labels
    assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_systemd_waits_for_the_drain():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "push-hub.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) >= Settings.model_fields["drain"].default + 10
    assert service["KillMode"] == "mixed"
    assert int(service["LimitNOFILE"]) > Settings.model_fields["max_viewers"].default


def test_ecs_gives_a_task_the_time_that_it_needs_and_health_that_is_no_readiness():
    parts = json.loads((DEPLOY / "ecs.json").read_text())
    (hub,) = parts["task-definition"]["containerDefinitions"]
    given = {one["name"]: one["value"] for one in hub["environment"]}
    assert hub["stopTimeout"] >= float(given["HUB_DRAIN"]) + 15
    target = parts["target-group"]
    assert target["HealthCheckPath"] in {route.path for route in router.routes} - {"/readyz"}
    assert target["ProtocolVersion"] == "HTTP1", "WebSocket upgrades do not pass an HTTP/2 target"
    (port,) = hub["portMappings"]
    (balancer,) = parts["service"]["loadBalancers"]
    assert {target["Port"], port["containerPort"], balancer["containerPort"]} == {int(hub["command"][-1])}
    assert hub["ulimits"][0]["softLimit"] > Settings.model_fields["max_viewers"].default
    (idle,) = parts["load-balancer-attributes"]
    assert float(idle["Value"]) >= 2 * float(given["HUB_HEARTBEAT"])


def test_proxies_pass_streams_on_and_ask_whether_the_process_lives():
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())["static_resources"]
    (listener,) = envoy["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["upgrade_configs"] == [{"upgrade_type": "websocket"}]
    api, script = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert (api["match"], script["match"]) == ({"prefix": "/api/"}, {"path": "/hub.js"})
    assert api["route"]["timeout"] == "0s"
    heartbeat = Settings.model_fields["heartbeat"].default
    for idle in (manager["stream_idle_timeout"], api["route"]["idle_timeout"]):
        assert float(idle.removesuffix("s")) >= 2 * heartbeat
    traefik = yaml.safe_load((DEPLOY / "traefik.yaml").read_text())["http"]
    balancer = traefik["services"]["hub"]["loadBalancer"]
    for path in (
        balancer["healthCheck"]["path"],
        envoy["clusters"][0]["health_checks"][0]["http_health_check"]["path"],
    ):
        assert path == "/healthz", "a hub without Redis keeps its viewers"
