"""What a declaration refuses, and that it survives JSON."""

import subprocess
import sys
from typing import get_args

import pytest
from pydantic import ValidationError

import airflow_ml
from airflow_ml import Column, Features, Files, Horovod, Model, Monitoring, Platform, Schema, Volume, each_slice
from airflow_ml.spec import Split
from airflow_ml.spec.base import Frozen
from airflow_ml.spec.gates import AtLeast, AtMost, BeatsChampion, Calibrated, EachSlice, Servable
from airflow_ml.spec.source import Categories, InRange, Nulls
from airflow_ml.spec.tuning import Between, OneOf
from tests.support.models import small_model


def test_a_model_survives_json_unchanged():
    model = small_model(training=Horovod(window="90d", params={"epochs": 3}), monitoring=Monitoring(cooldown="3d"))
    assert Model.model_validate_json(model.model_dump_json()) == model


def test_days_are_written_as_days():
    assert Horovod(window="90d").window == 90
    with pytest.raises(ValidationError, match="write it like '14d'"):
        Horovod(window="90 days")


def test_what_a_model_or_a_platform_is_made_of_is_importable_from_the_package():
    """Whatever is a field of a declaration, also below a tuple or a union; checks and gates have constructors."""

    def declarations(annotation) -> set[type]:
        if isinstance(annotation, type) and issubclass(annotation, Frozen):
            return {annotation}
        return {found for inner in get_args(annotation) for found in declarations(inner)}

    found: set[type] = set()
    new: set[type] = {Model, Platform}
    while new:
        found |= new
        new = {
            made for kind in new for field in kind.model_fields.values() for made in declarations(field.annotation)
        } - found
    built = {
        AtLeast,
        AtMost,
        BeatsChampion,
        Calibrated,
        EachSlice,
        Servable,
        Categories,
        InRange,
        Nulls,
        Between,
        OneOf,
    }
    assert built < found
    assert {kind.__name__ for kind in found - built} <= set(airflow_ml.__all__)
    assert all(hasattr(airflow_ml, name) for name in airflow_ml.__all__)


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
