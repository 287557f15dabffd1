"""Params of the DAGs as forms: pydantic models to the JSON schemas that Airflow's trigger form shows."""

from datetime import date
from functools import cache
from typing import Any

from airflow.sdk import Param
from pydantic import BaseModel, ConfigDict, Field, create_model

from airflow_ml.spec import Model


class WindowForm(BaseModel):
    """Partitions of a run by hand."""

    model_config = ConfigDict(populate_by_name=True)

    start: date | None = Field(
        default=None, alias="from", title="From", description="First partition. Left out: the run's logical date."
    )
    to: date | None = Field(default=None, title="To", description="Last partition. Left out: one day.")


class ScoringForm(WindowForm):
    """Scoring by hand."""

    version: int | None = Field(default=None, ge=1, title="Version", description="Left out: the champion.")


class ReleaseForm(BaseModel):
    """Promote or roll back."""

    version: int = Field(ge=1, title="Version", description="Registered version that goes into production.")
    reason: str = Field(default="", title="Reason", description="Kept in the champion's history.")


class TrainingWindowForm(BaseModel):
    """Window of a training run."""

    model_config = ConfigDict(populate_by_name=True)

    start: date | None = Field(
        default=None, alias="from", title="From", description="First day. Left out: as long before `to` as declared."
    )
    to: date | None = Field(
        default=None, title="To", description="Last day, with labels. Left out: the newest such day."
    )


def training_form(model: Model) -> type[BaseModel]:
    """The training window, and an override for each declared training parameter of a plain type."""
    fields: dict[str, Any] = {}
    for name, value in model.training.params.items():
        if isinstance(value, bool | int | float | str) and name not in TrainingWindowForm.model_fields:
            kind = type(value)
            fields[name] = (
                kind | None,
                Field(default=None, title=name, description=f"Training parameter; declared: {value!r}."),
            )
    return create_model("TrainingForm", __base__=TrainingWindowForm, **fields)


def form(model: type[BaseModel]) -> dict[str, Param]:
    """The params of a form; one without a default has to be given, or Airflow refuses the run.

    Airflow's form knows ``type`` with a list of names, and neither ``anyOf`` nor references.
    """
    return {name: _param(schema) for name, schema in _properties(model).items()}


@cache
def _properties(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Making a schema takes longer than a DAG, and the forms of all models but one are the same."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema(by_alias=True)["properties"]
    return properties


def _param(schema: dict[str, Any]) -> Param:
    schema = dict(schema)
    given = {"default": schema.pop("default")} if "default" in schema else {}
    variants = schema.pop("anyOf", None)
    if variants:
        types = [variant["type"] for variant in variants]
        merged = {key: value for variant in variants for key, value in variant.items() if key != "type"}
        schema |= merged | {"type": types}
    description = schema.pop("description", None)
    return Param(**given, description=description, **schema)
