"""The manifests of TF Serving and the gateway say what the code does: flags, paths, probes, names and times."""

import pytest
import typer.main
import yaml

from airflow_ml.cli import app
from airflow_ml.gateway import log as gateway_log
from airflow_ml.gateway import main as gateway_main
from airflow_ml.serving.server import flags as server_flags
from airflow_ml.serving.targets.configuration import models
from airflow_ml.spec import ConfigMap, ServingTarget
from tests.support.kube_manifests import FOLDER, objects, one

SERVING = one("tf-serving.yaml", "Deployment")
GATEWAY = one("gateway.yaml", "Deployment")


def containers(deployment):
    spec = deployment["spec"]["template"]["spec"]
    return {each["name"]: each for each in (*spec.get("initContainers", ()), *spec["containers"])}


def given(container):
    """What our own command line makes of a container's command."""
    program, name, *arguments = container["command"]
    assert program == "airflow-ml"
    return typer.main.get_command(app).commands[name].make_context(name, arguments).params


def target():
    """As the file itself declares it, at its head."""
    text = (FOLDER / "tf-serving.yaml").read_text()
    said = "".join(line.removeprefix("#") for line in text.splitlines()[2:5])
    return eval(said, {"ServingTarget": ServingTarget, "ConfigMap": ConfigMap})


def test_the_server_takes_its_flags_and_polls_what_the_sidecar_copies():
    server = containers(SERVING)["server"]
    flags = server_flags.parse(server["args"])
    assert not server_flags.unheeded(server["args"])
    assert flags.allow_version_labels_for_unavailable_models
    assert flags.model_config_file_poll_wait_seconds > 0
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    assert (flags.port, flags.rest_api_port) == (ports["grpc"], ports["rest"])
    once, sync = given(containers(SERVING)["sync-once"]), given(containers(SERVING)["sync"])
    assert (once["once"], sync["once"]) == (True, False)
    assert sync["every"] >= flags.model_config_file_poll_wait_seconds, "a version goes a round after its config"
    for each in (once, sync):
        assert str(each["copy"]) == flags.model_config_file
        assert (each["source"], str(each["folder"])) == (target().folder, target().seen_as)
    (monitoring,) = [each for each in server["volumeMounts"] if each["name"] == "monitoring"]
    assert flags.monitoring_config_file.startswith(monitoring["mountPath"] + "/")


def test_the_config_that_releases_change_is_the_one_that_is_mounted():
    config = target().config
    made = one("tf-serving-config.yaml", "ConfigMap")
    assert (made["metadata"]["name"], list(made["data"])) == (config.name, [config.key])
    assert models(made["data"][config.key], "") == []
    volumes = {each["name"]: each for each in SERVING["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config.name
    assert "optional" not in volumes["config"]["configMap"], "a server without a config does not start"
    (mount,) = [each for each in containers(SERVING)["sync"]["volumeMounts"] if each["name"] == "config"]
    assert str(given(containers(SERVING)["sync"])["config"]) == f"{mount['mountPath']}/{config.key}"
    assert config.name in one("serving-role.yaml", "Role")["rules"][0]["resourceNames"]
    applied = {(each["kind"], each["metadata"]["name"]) for each in objects("tf-serving.yaml")}
    assert ("ConfigMap", config.name) not in applied, "applying the servers again must not reset what they serve"


def test_releases_and_requests_find_the_servers():
    services = {each["metadata"]["name"]: each for each in objects("tf-serving.yaml") if each["kind"] == "Service"}
    (replicas,) = target().replicas
    scheme, name, port = replicas.split(":")
    headless = services[name.partition(".")[0]]["spec"]
    assert (scheme, headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("dns", "None", True)
    assert int(port) == headless["ports"][0]["port"]
    for address in (target().grpc, target().rest):
        host, _, port = address.partition(":")
        ports = [each["port"] for each in services[host.partition(".")[0]]["spec"]["ports"]]
        assert int(port) in ports
    environment = {each["name"]: each["value"] for each in containers(GATEWAY)["gateway"]["env"]}
    assert environment["AIRFLOW_ML_SERVING_GRPC"] == "tf-serving:8500"


def test_the_servers_are_ready_while_the_label_has_a_version():
    """What the address answers, with and without one, is asked of a real server in tests/contract."""
    probe = containers(SERVING)["server"]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/v1/models/flights/labels/stable/metadata", "port": "rest"}


def test_a_gateway_has_time_to_bring_its_log_to_the_lake():
    container = containers(GATEWAY)["gateway"]
    assert given(container)["host"] == "0.0.0.0"
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"rest": given(container)["port"], "grpc": given(container)["grpc_port"]}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    ending = 3 * gateway_main._GRACE_S + gateway_log._END_S
    assert GATEWAY["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= pause + ending + 5
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["AIRFLOW_ML_BASE"] in mounted


@pytest.mark.parametrize("deployment", [SERVING, GATEWAY], ids=["tf-serving", "gateway"])
def test_pods_are_confined_bounded_and_replaced_one_by_one(deployment):
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    for each in containers(deployment).values():
        context = each["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])
        assert "memory" in each["resources"]["limits"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["spec"]["replicas"] > 1


@pytest.mark.parametrize("name", ["tf-serving.yaml", "gateway.yaml"])
def test_services_and_budgets_mean_the_pods(name):
    labels = one(name, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for each in containers(one(name, "Deployment")).values() for port in each.get("ports", ())}
    for each in objects(name):
        if each["kind"] == "Service":
            assert each["spec"]["selector"] == labels
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
        if each["kind"] in ("PodDisruptionBudget", "Deployment"):
            assert each["spec"]["selector"]["matchLabels"] == labels
    volumes = {each["name"] for each in one(name, "Deployment")["spec"]["template"]["spec"]["volumes"]}
    for each in containers(one(name, "Deployment")).values():
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes


def test_the_files_are_plain_yaml_that_names_no_namespace():
    """`kubectl --namespace` says it."""
    for path in FOLDER.glob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            assert each is None or "namespace" not in each["metadata"]
