"""What a declaration refuses, and that it survives JSON."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from airflow_ml import Column, Features, Files, Horovod, Model, Monitoring, Platform, Schema, Volume, each_slice
from airflow_ml.spec import Split
from tests.support.models import small_model


def test_a_model_survives_json_unchanged():
    model = small_model(training=Horovod(window="90d", params={"epochs": 3}), monitoring=Monitoring(cooldown="3d"))
    assert Model.model_validate_json(model.model_dump_json()) == model


def test_days_are_written_as_days():
    assert Horovod(window="90d").window == 90
    with pytest.raises(ValidationError, match="write it like '14d'"):
        Horovod(window="90 days")


def test_importing_the_package_needs_only_pydantic():
    code = "import sys, airflow_ml; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("airflow'", "torch", "tensorflow", "pyspark", "pandas", "numpy", "pyarrow", "mlflow", "deltalake"):
        assert f"'{heavy}" not in loaded, f"{heavy} is imported by `import airflow_ml`"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: small_model(name="Bad Name"), "lower-case letters"),
        (lambda: small_model(gates=()), "at least 1 item"),
        (lambda: small_model(end="2012-12-31"), "lies before start"),
        (lambda: small_model(gates=(each_slice("carrier", "roc_auc", 0.6),)), "add 'carrier' to `slices`"),
        (lambda: small_model(monitoring=Monitoring(columns=("nope",))), "no model input has this name"),
        (lambda: small_model(colour="red"), "Extra inputs are not permitted"),
        (lambda: Horovod(window="20d", split=Split(validation="10d", test="10d")), "leaves nothing to train on"),
        (lambda: Features(build="a.b", entity="id", event_time="at", numeric=("x",)), "package.module:function"),
        (lambda: Features(build="a:b", entity="id", event_time="at"), "no feature column"),
        (lambda: Features(build="a:b", entity="id", event_time="at", numeric=("x", "x")), "declared twice: x"),
        (lambda: Files(path="a.csv", schema=small_model().source.schema_), "names no partition"),
        (lambda: Schema(columns=(Column(name="a", type="int"),), key="b"), "key 'b' is not a column"),
        (lambda: Schema(columns=(Column(name="ds", type="int"),), key="ds"), "'ds' is the partition column"),
        (lambda: Volume(min_ratio=2, max_ratio=1), "must be below"),
        (lambda: Platform(base="relative/path"), "give an absolute path"),
        (lambda: Platform(base="s3://bucket/base"), "only folders of this machine"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_fix(build, says):
    with pytest.raises(ValidationError, match=says):
        build()


def test_the_declaring_module_is_recorded():
    model = Model(**small_model().model_dump(exclude={"declared_in"}))
    assert model.declared_in == __name__
