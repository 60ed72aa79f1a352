"""The manifest, the Dockerfile and the unit are what Kubernetes, hadolint and systemd take, and name what is there."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from aoti_serve.config import AppConfig
from tests.unit.examples import rayservice

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    """By kind."""
    found = yaml.safe_load_all((EXAMPLES / "kubernetes" / "service.yaml").read_text())
    return {each["kind"]: each for each in found}


def cluster(manifests: dict[str, dict[str, Any]]) -> Any:
    return manifests["RayService"]["spec"]["rayClusterConfig"]


def worker(manifests: dict[str, dict[str, Any]]) -> Any:
    return cluster(manifests)["workerGroupSpecs"][0]


def test_its_application_is_a_configuration(manifests: dict[str, dict[str, Any]]) -> None:
    serve = yaml.safe_load(manifests["RayService"]["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    config = AppConfig.model_validate(application["args"])
    assert serve["proxy_location"] == "Disabled"
    assert config.gateway.host == "0.0.0.0"
    assert config.gateway.replicas == worker(manifests)["replicas"]
    assert {each["name"] for each in application["deployments"]} == {"gateway", f"{config.models[0].name}-replica"}


def test_probes_and_services_reach_the_ports_of_the_gateway(manifests: dict[str, dict[str, Any]]) -> None:
    (container,) = worker(manifests)["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"serve": 8000, "grpc": 8001}
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in asked.values()} == {"serve"}
    assert {name: probe["path"].rsplit("/")[-1] for name, probe in asked.items()} == {
        "startup": "ready",
        "readiness": "ready",
        "liveness": "live",
    }
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} == set(ports)


def test_services_and_budgets_choose_the_workers(manifests: dict[str, dict[str, Any]]) -> None:
    labels = worker(manifests)["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert cluster(manifests)["headGroupSpec"]["template"]["metadata"]["labels"] != labels


def test_every_pod_mounts_the_store(manifests: dict[str, dict[str, Any]]) -> None:
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (cluster(manifests)["headGroupSpec"], worker(manifests)):
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = group["template"]["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()


def test_it_is_a_ray_service_of_kuberay(manifests: dict[str, dict[str, Any]]) -> None:
    check = jsonschema.Draft202012Validator(rayservice.schema())
    assert [error.message for error in check.iter_errors(manifests["RayService"])] == []
    wrong = copy.deepcopy(manifests["RayService"])
    wrong["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["probe"] = {}
    assert len(list(check.iter_errors(wrong))) == 1


@pytest.mark.skipif(
    shutil.which("kubernetes-validate") is None, reason="it is not installed; scripts/nightly does that"
)
def test_the_rest_is_what_kubernetes_takes() -> None:
    command = ["kubernetes-validate", "--strict", "--no-warn", str(EXAMPLES / "kubernetes" / "service.yaml")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count(" passed for resource ") == 3, said


def test_the_image_runs_without_rights_and_ends_gently() -> None:
    lines = (EXAMPLES / "container" / "Dockerfile").read_text().splitlines()
    words = {line.split()[0]: line for line in lines if line and line[0].isalpha()}
    assert words["USER"] != "USER 0"
    assert words["STOPSIGNAL"] == "STOPSIGNAL SIGTERM"
    assert words["ENTRYPOINT"] == 'ENTRYPOINT ["aoti-serve"]', "of a shell it would not be the first process"
    assert "HEALTHCHECK" in words
    root = EXAMPLES.parent
    assert all((root / name).exists() for line in lines if line.startswith("COPY") for name in line.split()[1:-1])


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed; scripts/nightly does that")
def test_hadolint_has_nothing_to_say_of_the_image() -> None:
    subprocess.run(["hadolint", str(EXAMPLES / "container" / "Dockerfile")], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (EXAMPLES / "systemd" / "aoti-serve.service").read_text()
    program = "/opt/aoti-serve/venv/bin/aoti-serve"
    assert program in unit
    (tmp_path / "aoti-serve.service").write_text(unit.replace(program, "/bin/true"))
    command = ["systemd-analyze", "verify", str(tmp_path / "aoti-serve.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stderr == ""


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed; scripts/nightly does that")
def test_nginx_takes_the_proxy(tmp_path: Path) -> None:
    site = (EXAMPLES / "nginx" / "aoti-serve.conf").read_text()
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "1"]
    subprocess.run([*request, "-keyout", "aoti-serve.key", "-out", "aoti-serve.pem"], cwd=tmp_path, check=True)
    (tmp_path / "site").write_text(site.replace("/etc/nginx/", f"{tmp_path}/"))
    around = f"events {{}}\npid {tmp_path}/pid;\nhttp {{ access_log off; include {tmp_path}/site; }}\n"
    (tmp_path / "nginx.conf").write_text(around)
    command = ["nginx", "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    subprocess.run(command, check=True, capture_output=True)
