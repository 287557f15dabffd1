"""Asking a model from a DAG: some rows in, their probabilities out."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseOperator

from airflow_ml.hooks.tf_serving import TFServingHook
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.operators.errors import as_airflow
from airflow_ml.spec import Model

if TYPE_CHECKING:
    from airflow.sdk import Context

MOST_ROWS = 1000
"""Rows travel through Airflow's database; a night goes through `ScoreOperator`."""


class PredictOperator(BaseOperator):
    """Asks a model server, or the gateway, and returns the probabilities.

    Both speak TF Serving's gRPC, so the same kind of connection leads to either. The gateway chooses the version
    itself, by its routing; its answers say which it was, and lie in its prediction log.

    Args:
        model: The declaration: what a row has to have.
        rows: Features by name, null where one is not known; a list, or its JSON. Templated.
        version: Registry version, templated, or
        version_label: of the version that shall answer; ``stable`` unless a version is given.
        tf_serving_conn_id: Connection of type ``tf_serving``.
        through: What the connection leads to. ``gateway`` needs the entity in each row, and takes no label.
    """

    template_fields: Sequence[str] = ("rows", "version", "version_label", "tf_serving_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"rows": "json"}
    ui_color = "#e8f0fb"

    def __init__(
        self,
        *,
        model: Model,
        rows: Sequence[Mapping[str, Any]] | str | Any,
        version: int | str | None = None,
        version_label: str | None = None,
        tf_serving_conn_id: str = "tf_serving_default",
        through: Literal["server", "gateway"] = "server",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.rows = rows
        self.version = version
        self.version_label = version_label
        self.tf_serving_conn_id = tf_serving_conn_id
        self.through = through

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Ask once; a retry asks again."""
        from airflow_ml.hooks.rows import columns_of

        try:
            columns = columns_of(self.model, _rows(self.rows), entity=self.through == "gateway")
            version = None if self.version in (None, "") else int(str(self.version))
            label = (self.version_label or "stable") if version is None and self.through == "server" else None
            with TFServingHook(self.tf_serving_conn_id).get_conn() as client:
                found = client.predict(self.model.name, columns, version=version, label=label)
        except AirflowMLError as error:
            raise as_airflow(error) from None
        self.log.info("%s rows by version %s of %s", len(found.probability), found.version or label, self.model.name)
        outputs = {name: [_plain(value) for value in values] for name, values in found.outputs.items()}
        outputs.setdefault("model_version", [found.version] * len(found.probability))
        return [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]


def _rows(given: Any) -> Sequence[Mapping[str, Any]]:
    remedy = "give a list of objects: features by name"
    try:
        rows = json.loads(given) if isinstance(given, str) else list(given)
    except (TypeError, ValueError) as error:
        raise SpecError(f"no rows: {error}", "rows", remedy) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise SpecError("no rows", "rows", remedy)
    if len(rows) > MOST_ROWS:
        raise SpecError(f"{len(rows)} rows, at most {MOST_ROWS}", "rows", "score a night with ScoreOperator")
    return rows


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return value.decode() if isinstance(value, bytes) else value
