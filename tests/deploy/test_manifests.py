"""The manifests in deploy/: valid Kubernetes, and of one mind with the code about flags, ports, names and times."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml
from statecell_server.telemetry.metrics import METRICS

from tests.conftest import LIMIT
from tests.deploy.kustomize import Object, build, load
from tests.test_packages import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted((KUBERNETES / "overlays").iterdir())
NAME = ("Deployment", "statecell")


@pytest.fixture(scope="module")
def flags() -> set[str]:
    command = [sys.executable, "-m", "statecell_server", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True, env={"COLUMNS": "200"}).stdout
    return set(re.findall(r"--[a-z-]+", said))


def entry_point() -> list[str]:
    """The server's, in the Dockerfile."""
    (line,) = [
        line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith('ENTRYPOINT ["statecell-server"')
    ]
    return [str(word) for word in json.loads(line.removeprefix("ENTRYPOINT "))]


def options(args: list[str]) -> dict[str, str]:
    """What the server is told in the end: the image's own options, and these behind them; "" for one without a value."""
    told: dict[str, str] = {}
    option = ""
    for word in (part for arg in [*entry_point()[1:], *args] for part in arg.split("=", 1)):
        if word.startswith("--"):
            option = word
            told[option] = ""
        else:
            assert not told[option], f"{word} belongs to no option"
            told[option] = word
    return told


def server_of(objects: dict[tuple[str, str], Object]) -> Object:
    (container,) = objects[NAME]["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def objects(request: pytest.FixtureRequest) -> dict[tuple[str, str], Object]:
    return build(request.param)


def test_each_object_is_valid(objects: dict[tuple[str, str], Object]) -> None:
    for thing in objects.values():
        kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def test_a_mistake_in_one_is_found() -> None:
    wrong = build(KUBERNETES / "overlays/cpu")[NAME]
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_used() -> None:
    used = {KUBERNETES / "kserve/servingruntime.yaml", KUBERNETES / "kserve/inferenceservice.yaml"}
    for path in KUBERNETES.rglob("kustomization.yaml"):
        (about,) = load(path)
        named = [*about.get("resources", []), *(patch["path"] for patch in about.get("patches", []))]
        used |= {path} | {path.parent / name for name in named if name.endswith(".yaml")}
    assert set(KUBERNETES.rglob("*.yaml")) == used


def test_the_options_are_the_server_s(objects: dict[tuple[str, str], Object], flags: set[str]) -> None:
    assert set(options(server_of(objects)["args"])) <= flags


def closed(told: dict[str, str]) -> bool:
    """Whether strangers are kept out, by certificates of their own or by tokens, or it is said that they are not."""
    return "--insecure" in told or ("--tls-cert" in told and bool({"--tokens", "--tls-client-ca"} & told.keys()))


def test_who_may_call_is_said(objects: dict[tuple[str, str], Object], flags: set[str]) -> None:
    if "--insecure" not in flags:
        pytest.skip("this server asks nobody to say --insecure: it warns where strangers may call")
    assert closed(options(server_of(objects)["args"])), "give the args --tokens with TLS, or --insecure"
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert closed(options(compose["services"]["replica-1"]["command"]))
    (runtime,) = load(KUBERNETES / "kserve/servingruntime.yaml")
    assert closed(options(runtime["spec"]["containers"][0]["args"]))


def test_ports_are_those_that_the_server_listens_on(objects: dict[tuple[str, str], Object]) -> None:
    container = server_of(objects)
    told = options(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": int(told["--port"]), "http": int(told["--http-port"])}
    assert told["--host"] == "0.0.0.0"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]
        if "grpc" in asked:
            assert "httpGet" not in asked
            assert asked["grpc"]["port"] == ports["grpc"]
            assert "--tls-cert" not in told, "the kubelet's grpc probe speaks no TLS"
        else:
            assert asked["httpGet"]["port"] == "http"
            assert (asked["httpGet"].get("scheme") == "HTTPS") == ("--tls-cert" in told)
    service = objects["Service", "statecell"]["spec"]
    assert {port["name"]: (port["port"], port["targetPort"]) for port in service["ports"]} == {
        name: (number, name) for name, number in ports.items()
    }
    assert service["clusterIP"] == "None"
    let_in = [port["port"] for rule in objects["NetworkPolicy", "statecell"]["spec"]["ingress"] for port in rule["ports"]]
    assert set(let_in) == set(ports)


def test_a_pod_has_time_to_drain(objects: dict[tuple[str, str], Object]) -> None:
    pod = objects[NAME]["spec"]["template"]["spec"]
    program, seconds = server_of(objects)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    told = options(server_of(objects)["args"])
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + int(told["--drain-seconds"]) + 5


def test_names_lead_somewhere(objects: dict[tuple[str, str], Object]) -> None:
    deployment, container = objects[NAME], server_of(objects)
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        objects["Service", "statecell"]["spec"]["selector"],
        objects["PodDisruptionBudget", "statecell"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy", "statecell"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels for selector in selectors)
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == volumes
    told = options(container["args"])
    for option in ("--models", "--tls-cert", "--tls-key"):
        assert option not in told or any(told[option].startswith(path) for path in mounts), option
    variables = {variable["name"] for variable in container.get("env", [])}
    assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) == variables
    scaler = objects["HorizontalPodAutoscaler", "statecell"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "statecell"}
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] in {known.name for known in METRICS if known.type == "gauge"}
    assert scaler["maxReplicas"] > scaler["minReplicas"] >= 2


def test_a_pod_may_do_nothing_that_it_need_not(objects: dict[tuple[str, str], Object]) -> None:
    pod, container = objects[NAME]["spec"]["template"]["spec"], server_of(objects)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "STATECELL_PORT of a service named statecell would be taken for --port"
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_overlays_differ_in_what_they_are_for() -> None:
    gpu, durable = (server_of(build(KUBERNETES / "overlays" / name)) for name in ("gpu", "durable"))
    assert options(gpu["args"])["--device"] == "cuda"
    assert gpu["image"].endswith("-gpu")
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"--store", "--tls-cert", "--tls-key"} <= options(durable["args"]).keys()


def test_kserve_s_runtime_fits_its_service_and_the_server(flags: set[str]) -> None:
    (runtime,), (service,) = (load(KUBERNETES / "kserve" / name) for name in ("servingruntime.yaml", "inferenceservice.yaml"))
    (container,) = runtime["spec"]["containers"]
    told = options(container["args"])
    assert set(told) <= flags
    assert told["--models"] == "/mnt/models", "where KServe puts what storageUri names"
    assert [port["containerPort"] for port in container["ports"]] == [int(told["--port"])]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {form["name"] for form in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    # As a pod, for the parts that are Kubernetes' own.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_compose_fits_the_server_and_the_proxy(flags: set[str]) -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    envoy = (DEPLOY / "envoy.yaml").read_text()
    for name in ("replica-1", "replica-2"):
        told = options(services[name]["command"])
        assert set(told) <= flags
        assert f"address: {name}, port_value: {told['--port']}" in envoy
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= int(told["--drain-seconds"]) + 5
        assert services[name]["read_only"] is True
    store = services["valkey"]["command"]
    assert [store[store.index(f"--{option}") + 1] for option in ("appendonly", "appendfsync")] == ["yes", "always"]
    (published,) = services["envoy"]["ports"]
    assert f"port_value: {published.split(':')[1]}" in envoy
    assert compose["networks"]["inside"] == {"internal": True}
    for service in services.values():
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", {})) <= set(services)


def test_hadolint_finds_nothing() -> None:
    hadolint = ROOT / ".venv-deploy/bin/hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: make outside")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["build.sh", "certs.sh"])
def test_the_scripts_parse(name: str) -> None:
    bash = shutil.which("bash")
    assert bash
    assert subprocess.run([bash, "-n", DEPLOY / name], check=False, timeout=LIMIT).returncode == 0
