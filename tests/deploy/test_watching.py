"""The dashboard and the alerts, in the eyes of a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from statecell_client import Client, NonFiniteInput
from statecell_server.telemetry.metrics import METRICS

from tests.conftest import LIMIT, Serve, Server
from tests.server.oip_caller import OipCaller

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [
    p for p in json.loads((DEPLOY / "grafana" / "dashboards" / "statecell.json").read_text())["panels"] if p["type"] != "row"
]
SHOWN = sorted({target["expr"] for panel in PANELS for target in panel["targets"]})
X = np.zeros((1, 10), np.float32)

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="needs Prometheus: apt-get install prometheus",
)


KNOWN = {metric.name for metric in METRICS}


def metrics(expression: str) -> set[str]:
    """Ours that it names, without what a type adds."""
    names = re.findall(r"statecell_[a-z_]+", expression)
    return {n if n in KNOWN else re.sub("_(bucket|sum|count|total)$", "", n) for n in names}


def test_they_name_metrics_that_there_are_and_the_dashboard_shows_all() -> None:
    assert {name for expression in SHOWN for name in metrics(expression)} == KNOWN
    assert {name for rule in RULES for name in metrics(rule["expr"])} <= KNOWN


def test_each_alert_has_a_page_that_says_what_to_do() -> None:
    titles = re.findall("(?m)^## (.*)$", (DEPLOY.parent / "docs" / "alerts.md").read_text())
    assert titles == [rule["alert"] for rule in RULES]
    assert [rule["annotations"]["runbook"] for rule in RULES] == [f"docs/alerts.md#{title.lower()}" for title in titles]


@needs_prometheus
def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    for command in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        ran = subprocess.run(
            ["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


class Prometheus:
    """Asks it over HTTP."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"http://{self._address}{path}?{urllib.parse.urlencode(query)}", timeout=LIMIT) as answer:
            return json.load(answer)["data"]

    def ask(self, expression: str) -> list[Any]:
        """What it gives now."""
        found: list[Any] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def filled(self, expression: str) -> str:
        """As Grafana fills in what it has variables for."""
        return expression.replace("$__rate_interval", "15s").replace("$instance", ".*").replace("$model", ".*")


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[Server]:
    with serve("--http-port", "0", "--store", "memory") as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With our configuration, but for whom and how often it scrapes."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.http]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log, subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log) as process:
        try:
            asked = Prometheus(address)
            end = time.monotonic() + LIMIT
            while process.poll() is None and time.monotonic() < end:
                try:
                    if asked.ask("up == 1"):
                        break
                except OSError:
                    pass
                time.sleep(0.2)
            else:
                pytest.fail((folder / "log").read_text()[-2000:])
            yield asked
        finally:
            process.kill()


def traffic(server: Server, over: threading.Event) -> None:
    """Of all that the dashboard shows: steps, durable ones, errors, both protocols, a client that speaks no HTTP/2."""
    host, port = server.address.split(":")
    with Client(server.address) as client, client.session("lstm", durable=True) as durable, client.session("lstm") as session:
        oip = OipCaller(server.address)
        while not over.wait(0.05):
            durable.step(X)
            session.step(X)
            oip.infer("lstm", X[None])
            for spoiled in (np.full((1, 10), np.nan, np.float32),):
                with pytest.raises(NonFiniteInput):
                    session.step(spoiled)
            with pytest.raises(grpc.RpcError):
                oip.infer("lstm", np.full((1, 1, 10), np.nan, np.float32))
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        oip.channel.close()


@needs_prometheus
def test_every_panel_shows_something_and_no_alert_is_on_while_all_is_well(server: Server, prometheus: Prometheus) -> None:
    over = threading.Event()
    load = threading.Thread(target=traffic, args=(server, over))
    load.start()
    try:
        missing, end = set(SHOWN), time.monotonic() + LIMIT
        while missing and time.monotonic() < end:
            missing = {expression for expression in missing if not prometheus.ask(prometheus.filled(expression))}
            time.sleep(0.5)
        assert not missing
        rules = prometheus.get("/api/v1/rules")["groups"][0]["rules"]
        assert [rule["name"] for rule in rules] == [rule["alert"] for rule in RULES]
        assert {rule["health"] for rule in rules} == {"ok"}
        on = {alert["labels"]["alertname"] for alert in prometheus.get("/api/v1/alerts")["alerts"]}
        assert on <= {"StatecellFlooded", "StatecellStepsFail"}  # which this traffic is
    finally:
        over.set()
        load.join()


@needs_prometheus
def test_a_server_that_is_gone_is_seen(server: Server, prometheus: Prometheus) -> None:
    server.stop()
    end = time.monotonic() + LIMIT
    while "StatecellDown" not in {alert["labels"]["alertname"] for alert in prometheus.get("/api/v1/alerts")["alerts"]}:
        assert time.monotonic() < end
        time.sleep(0.5)
