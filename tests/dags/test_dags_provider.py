"""What Airflow's own commands and forms know about the package."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_ml import Platform
from airflow_ml.hooks.platform import PlatformHook, configured
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.provider import get_provider_info

REPOSITORY = Path(__file__).parents[2]


def test_the_metadata_is_as_airflow_wants_it():
    import airflow
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_everything_that_is_named_can_be_imported():
    """A link whose module fails to import vanishes from Airflow without a word."""
    info = get_provider_info()
    for path in [*info["extra-links"], *info["notifications"], info["connection-types"][0]["hook-class-name"]]:
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
