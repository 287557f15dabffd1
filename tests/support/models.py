"""A small declaration for tests that need a model and not the flights."""

from datetime import date
from typing import Any

from airflow_ml import Column, Features, Files, Label, Model, Schema, at_least


def small_model(**changes: Any) -> Model:
    """A model that is complete and refers to nothing that exists."""
    fields: dict[str, Any] = {
        "name": "small",
        "source": Files(
            path="raw/{ds}.csv.gz",
            schema=Schema(
                columns=(Column(name="id", type="string"), Column(name="x", type="float", nullable=True)), key="id"
            ),
        ),
        "features": Features(build="small.features:build", entity="id", event_time="at", numeric=("x",)),
        "label": Label(
            compute="small.features:label",
            delay="1d",
            source=Files(
                path="outcomes/{ds}.csv.gz",
                schema=Schema(columns=(Column(name="id", type="string"), Column(name="y", type="int")), key="id"),
            ),
        ),
        "gates": (at_least("roc_auc", 0.7),),
        "start": date(2013, 1, 1),
        "declared_in": "small.model",
    }
    return Model(**(fields | changes))
