"""A platform from variables and settings."""

import sys
import types

import pytest

from airflow_ml import KubernetesCompute, Platform
from airflow_ml.compute.platform import SETTINGS, load_platform, platform_from
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.provider import get_provider_info

ACME = Platform(base="/acme")


def test_without_variables_the_base_is_in_the_users_data_folder():
    assert load_platform({"HOME": "/home/ann"}).base == "/home/ann/.local/share/airflow-ml"
    assert load_platform({"HOME": "/home/ann", "XDG_DATA_HOME": "/data"}).base == "/data/airflow-ml"


def test_variables_fill_the_platform():
    platform = load_platform(
        {
            "AIRFLOW_ML_BASE": "/b",
            "AIRFLOW_ML_LANDING": "/l",
            "AIRFLOW_ML_CHECKPOINTS": "s3://acme-ml/checkpoints/",
            "AIRFLOW_ML_SERVING_GRPC": "m:8500",
            "AIRFLOW_ML_GRACE_S": "2.5",
            "AIRFLOW_ML_ALERTS_TO": "a@x.org, b@x.org",
            "AIRFLOW_ML_CONNECTIONS": '{"TOKEN": "mlflow"}',
            "AIRFLOW_ML_COMPUTES": '{"train": {"kind": "kubernetes", "namespace": "ml"}, "score": {"grace_s": 1}}',
            "AIRFLOW_ML_CACHE": "of somebody else",
        }
    )
    assert (platform.base, platform.landing_root, platform.serving.grpc) == ("/b", "/l", "m:8500")
    assert platform.checkpoints == "s3://acme-ml/checkpoints"
    assert platform.compute.grace_s == 2.5
    assert platform.alerts.to == ("a@x.org", "b@x.org")
    assert platform.connections == {"TOKEN": "mlflow"}
    assert platform.compute_for("train") == KubernetesCompute(namespace="ml")
    assert platform.compute_for("score").grace_s == 1
    assert platform.compute_for("ingest") is platform.compute


def test_a_task_may_ask_for_a_kind_of_compute():
    pods = KubernetesCompute(namespace="ml")
    platform = ACME.model_copy(update={"computes": {"train": pods}})
    assert platform.compute_for("train", "local") is platform.compute
    assert platform.compute_for("score", "kubernetes") is pods
    with pytest.raises(ValueError, match="declares no compute of kind 'kubernetes'"):
        ACME.compute_for("train", "kubernetes")


def test_a_platform_can_be_named(monkeypatch):
    module = types.ModuleType("acme_platforms")
    module.prod = ACME
    module.other = "no platform"
    monkeypatch.setitem(sys.modules, "acme_platforms", module)
    assert load_platform({"AIRFLOW_ML_PLATFORM": "acme_platforms:prod"}) is ACME
    for name in ("acme_platforms:other", "acme_platforms:none", "no_such_module:x", "acme_platforms"):
        with pytest.raises(SpecError, match="module:attribute"):
            load_platform({"AIRFLOW_ML_PLATFORM": name})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"base": "relative"}, "absolute"),
        ({"base": "/b", "platform": "a:b"}, "both set"),
        ({"base": "/b", "bases": "/c"}, "no setting 'bases'"),
        ({"base": "/b", "connections": "{"}, "not JSON"),
        ({"base": "/b", "computes": "train"}, "`computes` is not JSON"),
        ({"base": "/b", "computes": {"train": {"kind": "cloud"}}}, "computes.train"),
        ({"landing": "/l"}, "base"),
    ],
)
def test_settings_that_make_no_platform_are_refused(settings, text):
    with pytest.raises(SpecError, match=text):
        platform_from(settings, where="here")


@pytest.mark.parametrize(
    ("settings", "what", "remedy"),
    [
        (
            {"base": "relative"},
            "base: 'relative' is relative",
            "give an absolute path, because tasks start in many fol",
        ),
        ({"base": "/b", "grace_s": "soon"}, "grace_s: Input should be a valid number", "write a number"),
        ({"base": "/b", "grace_s": -1}, "grace_s: Input should be greater than or equal to 0", "choose 0 or more"),
        ({"landing": "/l"}, "base: Field required", "add it"),
        ({"base": "/b", "registry": "http://ann:s3cret@m.test"}, "registry: the address holds", "put credentials into"),
        ({"base": "/b", "alerts_to": {"s3cret": 1}}, "alerts_to: Input should be a valid tuple", "with the comma"),
    ],
)
def test_a_refused_setting_is_named_as_it_is_set_with_its_remedy(settings, what, remedy):
    with pytest.raises(SpecError) as refused:
        platform_from(settings, where="here")
    assert refused.value.what.startswith(what)
    assert remedy in refused.value.remedy
    assert "s3cret" not in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_every_setting_is_documented_for_airflow_and_in_the_connection_form():
    info = get_provider_info()
    options = info["config"]["airflow_ml"]["options"]
    assert set(options) == {"conn_id", "platform", *SETTINGS}
    assert set(info["connection-types"][0]["conn-fields"]) == {"platform", *SETTINGS}
