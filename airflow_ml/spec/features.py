"""Features and labels: which functions make them, from what, and when a label can be known."""

from typing import Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import Days, EntryPoint, Frozen
from airflow_ml.spec.source import Files

RESERVED = ("ds", "label", "probability")
"""Columns that we add beside model inputs: the partition, what is predicted, and what the model says of a row."""

OF_PREDICTIONS = ("decision", "model_version", "release", "scored_at", "arrived")
"""Columns that we add beside the entity, and those of `RESERVED`, in the tables predictions and feedback."""


class Features(Frozen):
    """Feature columns of a model, built by Spark.

    Attributes:
        build: ``fn(inputs: airflow_ml.stages.features.FeatureInputs) -> pyspark.sql.DataFrame``: one row an entity,
            with ``entity``, ``event_time``, every declared column, and ``ds``.
        entity: Column that names a row, unique in a partition.
        event_time: Timestamp column of the event that is predicted.
        categorical: String columns; vocabularies are learnt from the training split.
        numeric: Number columns; null means missing, filled by what the training split learnt.
        history: How far back outcomes are read for a partition: bounds the input of a night.
    """

    build: EntryPoint
    entity: str
    event_time: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    history: Days = 28

    @model_validator(mode="after")
    def _columns(self) -> Self:
        names = [*self.categorical, *self.numeric]
        if not names:
            raise ValueError("no feature column: declare `categorical` or `numeric`")
        # Neither Spark nor Delta tells names apart by their case.
        lower = [name.lower() for name in names]
        twice = sorted({name for name in names if lower.count(name.lower()) > 1})
        if twice:
            raise ValueError(f"columns declared twice: {', '.join(twice)}; Spark does not tell names apart by case")
        beside = (self.entity.lower(), self.event_time.lower(), *RESERVED)
        taken = [name for name in names if name.lower() in beside]
        if taken:
            raise ValueError(
                f"{taken[0]!r} cannot be a model input: the entity, the event time, {_quoted(RESERVED)} are beside "
                "them; give the feature another name"
            )
        if self.entity.lower() in (*RESERVED, *OF_PREDICTIONS):
            raise ValueError(
                f"entity: {self.entity!r} is a column that we add beside the entity; give the entity's column another "
                "name, in both sources"
            )
        if self.event_time.lower() in RESERVED:
            raise ValueError(
                f"event_time: {self.event_time!r} is a column that we add; let the build return the event time under "
                "another name"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Model inputs: categorical first, then numeric."""
        return (*self.categorical, *self.numeric)


class Label(Frozen):
    """What is predicted, and when it becomes known.

    Attributes:
        compute: ``fn(outcomes: pyarrow.Table) -> pyarrow.Array`` of nullable booleans, one a row; null means that the
            entity has no label (a cancelled flight), is not trained on and not judged.
        delay: Days between a partition's events and the arrival of their outcomes. Outcomes of ``ds`` land during
            ``ds + delay``, so at 00:00 of ``ds`` those up to ``ds - delay - 1`` are known.
        source: Where outcomes land. Its schema's key is the entity.
    """

    compute: EntryPoint
    delay: Days = Field(default=1, ge=1)
    source: Files

    @model_validator(mode="after")
    def _of_outcomes(self) -> Self:
        taken = [name for name in self.source.schema_.names if name.lower() == "label"]
        if taken:
            raise ValueError(
                f"source: its column {taken[0]!r} has the name of the column that `compute` makes, which we add; have "
                "it delivered under another name, and let `compute` read that"
            )
        return self

    @property
    def lag(self) -> int:
        """Days between a partition and the newest outcomes known at its 00:00: ``delay + 1``."""
        return self.delay + 1


def _quoted(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
