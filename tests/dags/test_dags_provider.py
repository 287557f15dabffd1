"""What Airflow's own commands and forms know about the package."""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ml import ConfigMap, Platform, ServingTarget
from airflow_ml.hooks.platform import PlatformHook, configured
from airflow_ml.hooks.tf_serving import TFServingHook
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.provider import get_provider_info
from airflow_ml.serving.errors import ModelNotServed

REPOSITORY = Path(__file__).parents[2]


def test_the_metadata_is_as_airflow_wants_it():
    import airflow
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_everything_that_is_named_can_be_imported():
    """A link whose module fails to import vanishes from Airflow without a word."""
    info = get_provider_info()
    hooks = [kind["hook-class-name"] for kind in info["connection-types"]]
    for path in [*info["extra-links"], *info["notifications"], *hooks]:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name)
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for module in info[kind][0]["python-modules"]:
            importlib.import_module(module)


def test_every_link_of_an_operator_is_in_the_metadata():
    from airflow_ml import operators

    links = {type(link) for name in operators.__all__ for link in getattr(operators, name).operator_extra_links}
    assert {f"{link.__module__}.{link.__name__}" for link in links} == set(get_provider_info()["extra-links"])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("list",), "airflow-ml"),
        (("get", "airflow-ml"), "airflow-ml"),
    ],
    ids=["list", "get"],
)
@pytest.mark.slow
def test_airflows_commands_show_the_provider(command, expected, airflow_db):
    airflow = Path(sys.executable).with_name("airflow")
    done = subprocess.run([airflow, "providers", *command], capture_output=True, text=True, check=True)
    assert expected in done.stdout


def test_airflow_has_loaded_what_the_provider_names():
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.hooks["tf_serving"].hook_class_name == "airflow_ml.hooks.tf_serving.TFServingHook"
    assert manager.hooks["airflow_ml"].hook_class_name == "airflow_ml.hooks.platform.PlatformHook"
    assert set(get_provider_info()["extra-links"]) <= set(manager.extra_links_class_names)
    assert "airflow_ml.notifications.alert.ModelAlertNotifier" in manager.notification
    assert "airflow-ml" in dict(manager.provider_configs)


def test_the_configuration_describes_a_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__ALERTS_TO", "a@x.org,b@x.org")
    assert configured() == {"base": str(tmp_path), "alerts_to": "a@x.org,b@x.org"}
    platform = PlatformHook().platform
    assert (platform.base, platform.alerts.to) == (str(tmp_path), ("a@x.org", "b@x.org"))


def test_without_configuration_it_is_the_platform_of_the_command_line(monkeypatch):
    monkeypatch.setenv("AIRFLOW_ML_BASE", "/from/the/environment")
    assert PlatformHook().platform.base == "/from/the/environment"


def test_a_connection_wins_over_the_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", "/configured")
    extra = {"base": str(tmp_path), "serving_grpc": "m:8500"}
    monkeypatch.setenv("AIRFLOW_CONN_ML_HERE", json.dumps({"conn_type": "airflow_ml", "extra": extra}))
    assert PlatformHook("ml_here").platform.serving.grpc == "m:8500"
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__CONN_ID", "ml_here")
    assert PlatformHook().platform.base == str(tmp_path)


def test_a_connection_without_a_password_is_no_secret(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", '{"conn_type": "http"}')
    hook = PlatformHook(platform=Platform(base="/b", connections={"TOKEN": "vault"}))
    with pytest.raises(SpecError, match="connection vault: the connection has no password"):
        hook.secrets()


def test_what_releases_gets_the_connections_of_the_model_servers(monkeypatch):
    """A stage has no Airflow to ask: it reads them where the hook puts them, and secrets are apart."""
    from airflow_ml.serving.connections import client_arguments, handed

    tf = {"conn_type": "tf_serving", "host": "m", "port": 8500, "password": "s3cret", "extra": {"tls": True, "ca": ""}}
    monkeypatch.setenv("AIRFLOW_CONN_TF", json.dumps(tf))
    kube = {"conn_type": "kubernetes", "extra": {"kube_config_path": "/etc/kube"}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBE", json.dumps(kube))
    config = ConfigMap(namespace="ml", name="models", conn_id="kube")
    hook = PlatformHook(platform=Platform(base="/b", serving=ServingTarget(conn_id="tf", config=config)))
    assert hook.secrets("features") == {}
    given = hook.secrets("rollout")
    assert given == hook.secrets("release")
    assert given["AIRFLOW_ML_CONN_TF_PASSWORD"] == "s3cret"
    assert "s3cret" not in given["AIRFLOW_ML_CONN_TF"]
    with TFServingHook("tf").get_conn() as client:
        assert client.address == client_arguments(handed("tf", given))["url"] == "grpcs://m:8500"
    assert handed("kube", given).extra == {"kube_config_path": "/etc/kube"}


def test_the_test_button(monkeypatch, tmp_path):
    assert PlatformHook(platform=Platform(base=str(tmp_path))).test_connection() == (True, f"base {tmp_path}")
    new = tmp_path / "a" / "b"
    good, text = PlatformHook(platform=Platform(base=str(new))).test_connection()
    assert good
    assert "made by the first stage" in text
    assert not new.exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert not PlatformHook(platform=Platform(base=str(file / "base"))).test_connection()[0]
    monkeypatch.setenv("AIRFLOW__AIRFLOW_ML__BASE", "relative")
    good, text = PlatformHook().test_connection()
    assert not good
    assert "absolute" in text


@pytest.mark.parametrize(("base", "good"), [("", True), ("relative/", False)])
def test_the_test_button_in_the_api_server(client, token, tmp_path, base, good):
    body = {"connection_id": "ml", "conn_type": "airflow_ml", "extra": json.dumps({"base": base or str(tmp_path)})}
    headers = {"Authorization": f"Bearer {token('admin')}"}
    answer = client.post("/api/v2/connections/test", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["status"] is good, answer.json()


def test_the_form_of_a_connection_is_known_without_importing_the_hook(client, token):
    answer = client.get("/ui/connections/hook_meta", headers={"Authorization": f"Bearer {token('admin')}"})
    (form,) = [found for found in answer.json() if found["connection_type"] == "airflow_ml"]
    assert {"base", "landing", "platform"} <= form["extra_fields"].keys()
    assert form["standard_fields"]["password"]["hidden"]


def test_a_mounted_repository_registers_nothing_beside_the_entry_point():
    code = "import runpy; print([k for k in runpy.run_path('plugins/airflow_ml_plugin.py') if 'Plugin' in k])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_a_mounted_repository_registers_the_plugin_without_an_entry_point():
    code = (
        "import importlib.metadata as m, runpy; real = m.entry_points;"
        "m.entry_points = lambda **k: () if k.get('group') == 'airflow.plugins' else real(**k);"
        "print([k for k in runpy.run_path('plugins/airflow_ml_plugin.py') if 'Plugin' in k])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "['AirflowMLPlugin']"


# --- a model server -------------------------------------------------------------------------------------------------


def model_server(monkeypatch, **connection):
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps({"conn_type": "tf_serving"} | connection))
    return TFServingHook()


@pytest.fixture(scope="module")
def listening():
    """A model server that has no models."""
    from airflow_ml.serving.server.core import Core
    from airflow_ml.serving.server.flags import Flags
    from airflow_ml.serving.server.grpc_api import GrpcServer

    core = Core(Flags(port=0))
    server = GrpcServer(core, Flags(port=0))
    yield server.port
    server.stop(0)
    core.close()


def test_a_connection_to_a_model_server_makes_clients(monkeypatch, listening):
    hook = model_server(monkeypatch, host="127.0.0.1", port=listening, extra={"deadline_s": "2.5"})
    with hook.get_conn() as client, pytest.raises(ModelNotServed):
        client.status("m")
    assert (client.address, client.deadline) == (f"grpc://127.0.0.1:{listening}", 2.5)
    assert hook.test_connection() == (True, f"a model server answers at grpc://127.0.0.1:{listening}")

    async def asked():
        async with await hook.aget_conn() as asynchronous:
            await asynchronous.status("m")

    with pytest.raises(ModelNotServed):
        asyncio.run(asked())


@pytest.mark.parametrize(
    ("extra", "url"),
    [
        ({}, "grpc://models:8500"),
        ({"protocol": "http"}, "http://models:8501"),
        ({"protocol": "http", "tls": True}, "https://models:8501"),
        ({"tls": True}, "grpcs://models:8500"),
    ],
)
def test_the_fields_of_the_form_say_how_it_is_asked(monkeypatch, extra, url):
    with model_server(monkeypatch, host="models", password="s3cret", extra=extra).get_conn() as client:
        assert client.address == url


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ({}, "connection tf_serving_default: the connection has no host"),
        ({"host": "x", "extra": {"protocol": "soap"}}, "protocol 'soap' is unknown"),
        ({"host": "x", "extra": {"deadline_s": "soon"}}, "deadline_s"),
        ({"host": "x", "extra": {"certificate": "/none"}}, "the key is missing"),
        ({"host": "x", "extra": {"ca": "/none"}}, "CA certificate cannot be read"),
        ({"host": "127.0.0.1", "port": 9, "extra": {"deadline_s": 0.5}}, "grpc://127.0.0.1:9"),
    ],
)
def test_the_test_button_says_what_is_wrong_with_a_model_server(monkeypatch, connection, says):
    good, text = model_server(monkeypatch, **connection).test_connection()
    assert not good
    assert says in text


def test_the_test_button_for_a_model_server_in_the_api_server(client, token, listening):
    body = {"connection_id": "models", "conn_type": "tf_serving", "host": "127.0.0.1", "port": listening}
    answer = client.post("/api/v2/connections/test", json=body, headers={"Authorization": f"Bearer {token('admin')}"})
    assert answer.status_code == 200
    assert answer.json() == {"status": True, "message": f"a model server answers at grpc://127.0.0.1:{listening}"}


def test_the_form_shows_every_extra_that_the_hook_reads():
    (form,) = [kind for kind in get_provider_info()["connection-types"] if kind["connection-type"] == "tf_serving"]
    assert set(form["conn-fields"]) == {"protocol", "tls", "ca", "certificate", "key", "deadline_s"}
    assert form["conn-fields"]["key"]["schema"]["format"] == "password"


def test_a_task_that_asks_a_server_says_which_and_for_what(monkeypatch, listening, model):
    from airflow.sdk import DAG
    from airflow.sdk.exceptions import AirflowException

    from airflow_ml.operators import PredictOperator

    model_server(monkeypatch, host="127.0.0.1", port=listening)
    with DAG("asks", schedule=None):
        operator = PredictOperator(task_id="predict", model=model, rows='[{"x": 1}, {"x": null}]')
    with pytest.raises(AirflowException, match=rf"127.0.0.1:{listening} model small"):
        operator.execute({})


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("[]", "no rows"),
        ("{", "no rows"),
        ([{"x": 1}, {}], "row 1 has no x"),
        ([{"x": 1, "y": 2}], "row 0 has y, unknown to the model"),
        ([{"x": "fast"}], "x: could not convert"),
        ([{"x": 1}] * 1001, "at most 1000"),
    ],
)
def test_rows_that_no_model_takes_are_refused_before_a_server_is_asked(model, rows, says):
    from airflow.sdk import DAG
    from airflow.sdk.exceptions import AirflowFailException

    from airflow_ml.operators import PredictOperator

    with DAG("asks", schedule=None):
        operator = PredictOperator(task_id="predict", model=model, rows=rows)
    with pytest.raises(AirflowFailException, match=says):
        operator.execute({})
