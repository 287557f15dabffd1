"""What a declaration refuses before it costs a run: metrics, checks, columns and addresses that cannot be meant."""

import math
import re

import pytest
from pydantic import ValidationError

from airflow_ml import (
    Column,
    Features,
    Files,
    Horovod,
    Label,
    Platform,
    Schema,
    Tune,
    at_least,
    at_most,
    beats_champion,
    between,
    each_slice,
    one_of,
)
from airflow_ml.declarations import check_serving, check_training
from airflow_ml.spec import ConfigMap, Reload, ServingTarget, categories, in_range, nulls, servable
from tests.support.models import small_model

ID = Column(name="id", type="string")


def files(*columns: Column, key: str = "id", **changes) -> Files:
    return Files(path="{ds}.csv", schema=Schema(columns=columns or (ID,), key=key), **changes)


def features(**changes) -> Features:
    return Features(**({"build": "a:b", "entity": "id", "event_time": "at", "numeric": ("x",)} | changes))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: at_least("roc_acu", 0.7), "'roc_acu' is not a metric that is computed; use one of roc_auc, "),
        (lambda: at_least("roc_auc", 50), "threshold: 50 is outside what roc_auc can be.*; choose 0 to 1"),
        (lambda: at_most("log_loss", -0.1), "threshold: -0.1 is outside what log_loss can be.*; choose 0 or more"),
        (lambda: at_most("p99_latency_ms", -1), "outside what p99_latency_ms can be.*; choose 0 or more"),
        (lambda: each_slice("carrier", "ece", 1.01), "outside what ece can be"),
        (lambda: beats_champion("accuracy"), "'accuracy' is not a metric of the test split; use one of roc_auc, "),
        (lambda: beats_champion("p99_latency_ms"), "not a metric of the test split"),
        (lambda: each_slice("carrier", "auc", 0.6), "'auc' is not a metric"),
        (lambda: at_least("roc_auc", -math.inf), "finite number"),
        (lambda: at_most("log_loss", math.nan), "finite number"),
        (lambda: beats_champion("roc_auc", by=-math.inf), "finite number"),
        (lambda: each_slice("carrier", "roc_auc", math.nan), "finite number"),
        (lambda: servable(tolerance=math.inf), "finite number"),
        (lambda: servable(max_p99_latency_ms=math.inf), "finite number"),
    ],
)
def test_a_gate_that_can_never_be_judged_is_refused(build, says):
    with pytest.raises(ValidationError, match=says):
        build()


def test_losses_and_latencies_have_no_upper_bound():
    assert (at_most("log_loss", 1.5).threshold, at_most("p99_latency_ms", 10_000).threshold) == (1.5, 10_000)
    assert [at_least("roc_auc", bound).threshold for bound in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    "build",
    [
        lambda: small_model(gates=(at_least("roc_auc", 0.7))),
        lambda: Schema(columns=(ID), key="id"),
        lambda: Column(name="n", type="int", checks=(nulls(0.1))),
    ],
)
def test_one_value_where_several_are_declared_is_refused_with_the_comma(build):
    with pytest.raises(ValidationError, match=r"is one \w+ and no tuple; write \(value,\)") as refused:
        build()
    assert refused.value.error_count() == 1


@pytest.mark.parametrize("metric", ["ece", "recall", "p50_latency_ms", "p99_latency_ms"])
def test_every_metric_that_is_computed_can_be_a_gate(metric):
    assert at_most(metric, 1.0).metric == metric


def test_the_metrics_of_gates_are_those_that_evaluation_computes():
    import numpy as np

    from airflow_ml.spec.gates import METRICS
    from airflow_ml.training.metrics import evaluate

    assert set(METRICS) == set(evaluate(np.array([0, 1]), np.array([0.2, 0.8]), 0.5, seed=1, resamples=0))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: files(encoding="utf-9"), "'utf-9' is not an encoding of text; write it as Python does"),
        (lambda: files(encoding="hex"), "'hex' is not an encoding of text"),
        (
            lambda: Files(path="a/{ds}/{hour}.csv", schema=Schema(columns=(ID,), key="id")),
            "has {hour}, which nothing fills; only {ds} is known",
        ),
        (lambda: in_range(5, 1), "minimum: 5 lies above maximum 1; swap them"),
        (lambda: in_range(0, math.inf), "finite number"),
        (
            lambda: Column(name="s", type="string", checks=(in_range(0, 1),)),
            "checks: column 's' is string, and in_range is for int and float columns; remove the check",
        ),
        (lambda: Column(name="t", type="timestamp", checks=(in_range(0, 1),)), "column 't' is timestamp"),
        (lambda: Column(name="b", type="bool", checks=(in_range(0, 1),)), "column 'b' is bool"),
        (lambda: Column(name="n", type="int", checks=(categories(),)), "categories is for string columns"),
        (lambda: Column(name="n", type="int", checks=(nulls(0.1), nulls(0.2))), "has nulls twice"),
    ],
)
def test_a_check_that_cannot_hold_is_refused(build, says):
    with pytest.raises(ValidationError, match=says):
        build()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: small_model(features=features(entity="key")), "features.entity: 'key' is not a column of the source"),
        (
            lambda: small_model(label=Label(compute="a:b", source=files(Column(name="no", type="int"), key="no"))),
            "label.source: its key is 'no', the entity is 'id'",
        ),
        (
            lambda: small_model(source=small_model().label.source),
            "label.source: 'outcomes/{ds}.csv.gz' is the path of the source, too.*; have them delivered as files",
        ),
        (lambda: features(categorical=("id",)), "'id' cannot be a model input"),
        (lambda: features(numeric=("ID",)), "'ID' cannot be a model input"),
        (lambda: features(numeric=("At",)), "'At' cannot be a model input"),
        (lambda: features(numeric=("x", "X")), "columns declared twice: X, x; Spark does not tell"),
        (lambda: features(categorical=("X",), numeric=("x",)), "columns declared twice: X, x"),
        (lambda: features(numeric=("x", "label")), "'label' cannot be a model input"),
        (lambda: features(numeric=("ds",)), "'ds' cannot be a model input"),
        (lambda: features(numeric=("probability",)), "'probability' cannot be a model input.*give the feature another"),
        (lambda: features(entity="release"), "entity: 'release' is a column that we add beside the entity; give"),
        (lambda: features(event_time="label"), "event_time: 'label' is a column that we add; let the build"),
        (
            lambda: Label(compute="a:b", source=files(ID, Column(name="label", type="bool"))),
            "source: its column 'label' has the name of the column that `compute` makes.*; have it delivered",
        ),
        (
            lambda: small_model(source=files(ID, Column(name="Label", type="bool"))),
            "source: its column 'Label' has the name of what is predicted.*; have it delivered under another name",
        ),
        (
            lambda: small_model(source=files(ID, Column(name="probability", type="float")), slices=("probability",)),
            "slices: 'probability' is a column that we add to what is evaluated; have the source's column",
        ),
        (lambda: files(ID, Column(name="DS", type="string")), "'ds' is the partition column"),
        (lambda: files(ID, Column(name="ID", type="string")), "columns declared twice: ID, id"),
        (lambda: small_model(slices=("x", "carier")), "slices: 'carier' is neither a model input nor a column"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(build, says):
    with pytest.raises(ValidationError, match=says):
        build()


def test_a_column_of_the_source_that_nothing_of_ours_stands_beside_may_have_any_name():
    source = files(ID, *(Column(name=name, type="float") for name in ("probability", "release", "arrived")))
    assert small_model(source=source, slices=("release",)).source.schema_.names[1] == "probability"


def test_slices_are_model_inputs_or_columns_of_the_source():
    source = files(ID, Column(name="origin", type="string"))
    assert small_model(source=source, slices=("x", "origin")).slices == ("x", "origin")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"landing": "landing"}, "'landing' is relative; give an absolute path"),
        ({"serving": {"folder": "models"}}, "'models' is relative; give an absolute path"),
        ({"landing": "s3://bucket"}, "only folders of this machine"),
        ({"registry": "https://ann:secret@mlflow.test"}, "put credentials into a connection"),
        ({"registry": "postgresql://ann:secret@db.test/mlflow"}, "put credentials into a connection"),
        ({"registry": "postgresql://ann:se/cret@db.test/mlflow"}, "holds a password; put credentials into a connect"),
        ({"registry": "postgresql://ann@db.test/mlflow?password=s3cret"}, "a secret in its parameter 'password'"),
        ({"registry": "postgresql:///mlflow?sslmode=require&sslpassword=s3cret"}, "in its parameter 'sslpassword'"),
        ({"registry": "mysql://db.test/mlflow?passwd=s3cret"}, "a secret in its parameter 'passwd'"),
        ({"registry": "mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Ds3cret"}, "in its parameter 'odbc_connect'"),
        ({"registry_ui": "https://mlflow.test/?access_token=s3cret"}, "a secret in its parameter 'access_token'"),
        ({"registry_ui": "https://mlflow.test/?Api-Key=s3cret"}, "a secret in its parameter 'Api-Key'"),
        ({"registry_ui": "https://mlflow.test/?x=1#token=s3cret"}, "a secret in its parameter 'token'"),
        ({"serving": {"rest": "http://ann:s3cret@models.test:8501"}}, "put credentials into a connection"),
        ({"landing": "s3://ann:s3cret@bucket"}, "'s3://…': only folders of this machine"),
        ({"checkpoints": "checkpoints"}, "'checkpoints' is relative; give an absolute path"),
        ({"checkpoints": "gs://ml/checkpoints"}, "'gs://…' is neither a folder nor S3"),
        ({"checkpoints": "s3://ann:s3cret@acme-ml/checkpoints"}, "is no bucket and prefix"),
    ],
)
def test_a_platform_of_relative_folders_or_with_a_password_is_refused(fields, says):
    with pytest.raises(ValidationError, match=says) as refused:
        Platform(base="/base", **fields)
    assert not re.search("secret@|s3cret|cret@", str(refused.value))


def test_a_serving_target_alone_refuses_a_password_too():
    with pytest.raises(ValidationError, match="put credentials into a connection") as refused:
        ServingTarget(grpc="//ann:s3cret@models.test:8500")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"folder": "models"}, "'models' is relative"),
        ({"folder": "gs://models"}, "'gs://…' is neither a folder nor S3"),
        ({"folder": "s3://ann:s3cret@models", "seen_as": "/models"}, "is no bucket and prefix"),
        ({"folder": "s3://models/serving"}, "seen_as: the versions lie in S3"),
        ({"seen_as": "models"}, "'models' is relative"),
        ({"config": {"kind": "consul"}}, "does not match any of the expected tags"),
        ({"config": {"kind": "configmap", "name": "models"}}, "namespace"),
        ({"config": {"kind": "configmap", "namespace": "ML", "name": "models"}}, "'ML' is no name in Kubernetes"),
        ({"config": {"kind": "configmap", "namespace": "ml", "name": "m", "key": "a/b"}}, "key: 'a/b' is no file name"),
        ({"config": {"kind": "file", "namespace": "ml"}}, "namespace"),
        ({"replicas": ("models",)}, "'models' is no host:port"),
        ({"replicas": ("grpc://ann:s3cret@models:8500",)}, "'grpc://…' is no host:port"),
        ({"replicas": ("models:0",)}, "choose one from 1 to 65535"),
        ({"replicas": ("a:8500", "b:8500", "a:8500")}, "replicas: a:8500 is there twice"),
    ],
)
def test_a_serving_target_that_leads_nowhere_is_refused(fields, says):
    with pytest.raises(ValidationError, match=re.escape(says)) as refused:
        Platform(base="/base", serving=fields)
    assert "s3cret" not in str(refused.value)


def test_serving_targets_that_are_taken():
    targets = (
        ServingTarget(),
        ServingTarget(folder="/mnt/models", seen_as="/models", replicas=("a:8500", "[::1]:8500"), conn_id="tf"),
        ServingTarget(config=Reload(), replicas=("127.0.0.1:8500", "127.0.0.1:8502")),
        ServingTarget(
            folder="s3://models/serving/",
            seen_as="/models",
            config=ConfigMap(namespace="ml", name="models"),
            replicas=("dns:tf-serving-replicas.ml.svc:8500",),
        ),
    )
    for target in targets:
        platform = Platform(base="/base", serving=target)
        assert Platform.model_validate_json(platform.model_dump_json()) == platform
    assert platform.serving_folder == "s3://models/serving"
    assert platform.config_folder == "/base/serving"
    assert Platform(base="/base", serving=targets[1]).config_folder == "/mnt/models"


def test_a_check_of_the_serving_target_names_the_field_and_the_fix(tmp_path):
    wrong = ServingTarget(config=Reload(), replicas=("m:8501",))
    record, port, requests = check_serving(Platform(base=str(tmp_path), serving=wrong))
    assert str(record).startswith("platform.serving.config: Reload() sends the whole config, and there is no record")
    assert "put the servers' models.config there" in record.fix
    assert (port.field, port.what) == ("platform.serving.replicas", "port 8501 is the one of `rest`")
    assert (requests.field, "none of the replicas" in requests.what) == ("platform.serving.grpc", True)
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "models.config").write_text("model_config_list {}")
    right = ServingTarget(config=Reload(), grpc="m:8500", rest="m:8501", replicas=("m:8500",))
    assert check_serving(Platform(base=str(tmp_path), serving=right)) == []
    assert check_serving(Platform(base=str(tmp_path))) == []


def test_addresses_without_a_password_are_taken():
    for registry in (
        "sqlite:////base/mlflow.db",
        "sqlite:////base/a:b@c/mlflow.db",
        "http://mlflow.test:5000",
        "http://[::1]:5000",
        "postgresql://ann@db.test/mlflow",
        "postgresql://ann@db.test:5432/mlflow?sslmode=require&passfile=/run/pgpass&sslkey=/run/key.pem&author=ann",
    ):
        assert Platform(base="/base", registry=registry).registry_uri == registry


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"workers": 3, "max_workers": 2}, "max_workers: 2 are fewer than the 3 workers"),
        ({"workers": 3, "min_workers": 4}, "min_workers: 4 are more than the 3 workers"),
        ({"step_timeout_s": 0}, "step_timeout_s"),
        ({"fusion_threshold_mb": -1}, "fusion_threshold_mb"),
        ({"cycle_time_ms": 0}, "cycle_time_ms"),
    ],
)
def test_a_training_that_cannot_be_is_refused(training, says):
    with pytest.raises(ValidationError, match=says):
        Horovod(**training)


@pytest.mark.parametrize(
    ("search", "field", "says"),
    [
        ({"learning_rat": between(0.1, 1.0)}, "learning_rat", "there is no such parameter"),
        ({"dropout": between(0.0, 1.0)}, "dropout", "less than 1"),
        ({"compression": one_of("none", "zip")}, "compression", "'none', 'fp16' or 'bf16'"),
    ],
)
def test_a_search_over_what_no_training_takes_is_refused(search, field, says):
    (problem,) = check_training(small_model(tune=Tune(search=search)))
    assert problem.field == f"tune.search.{field}"
    assert says in problem.what
