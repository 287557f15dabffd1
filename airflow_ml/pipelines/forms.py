"""Params of the DAGs as forms: pydantic models to the JSON schemas that Airflow's trigger form shows."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from airflow.sdk import Param
from pydantic import BaseModel, ConfigDict, Field

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
    """Roll out, promote or roll back."""

    version: int | None = Field(
        default=None,
        ge=1,
        title="Version",
        description="Registered version that goes into production. Left out, in mode rollback: the one before.",
    )
    mode: Literal["declared", "canary", "shadow", "at_once", "rollback"] = Field(
        default="declared",
        title="Mode",
        description="As the model declares it; in canary steps; only copies of requests; all traffic at once; back.",
    )
    steps: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(
        default=None, title="Steps", description="Canary steps in place of the declared ones: shares that rise."
    )
    reason: str = Field(default="", title="Reason", description="Kept in the release record.")
    by: str = Field(default="", title="Who", description="Kept in the release record. Left out: the user.")


class TrainingForm(BaseModel):
    """Window of a training run; `training_form` adds the model's parameters."""

    model_config = ConfigDict(populate_by_name=True)

    start: date | None = Field(
        default=None, alias="from", title="From", description="First day. Left out: as long before `to` as declared."
    )
    to: date | None = Field(
        default=None, title="To", description="Last day, with labels. Left out: the newest such day."
    )


_SCHEMAS: dict[type[BaseModel], dict[str, dict[str, Any]]] = {
    kind: kind.model_json_schema(by_alias=True)["properties"]
    for kind in (WindowForm, ScoringForm, ReleaseForm, TrainingForm)
}
"""Made at import: the DAG processor parses each file in a process of its own, which inherits them from its parent."""

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def training_form(model: Model) -> dict[str, Param]:
    """The training window, and an override for each parameter of `overridable`."""
    overrides = {
        name: Param(None, f"Training parameter; declared: {value!r}.", title=name, type=[_TYPES[type(value)], "null"])
        for name, value in overridable(model).items()
    }
    return form(TrainingForm) | overrides


def overridable(model: Model) -> Mapping[str, Any]:
    """The declared training parameters that a form can ask for: those of a plain type."""
    return {
        name: value
        for name, value in model.training.params.items()
        if type(value) in _TYPES and name not in _SCHEMAS[TrainingForm]
    }


def form(kind: type[BaseModel]) -> dict[str, Param]:
    """The params of a form; one without a default has to be given, or Airflow refuses the run.

    Airflow's form knows ``type`` with a list of names, and neither ``anyOf`` nor references.
    """
    return {name: _param(schema) for name, schema in _SCHEMAS[kind].items()}


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
