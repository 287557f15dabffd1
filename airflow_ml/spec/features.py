"""Features and labels: which functions make them, from what, and when a label can be known."""

from typing import Self

from pydantic import Field, model_validator

from airflow_ml.spec.base import Days, EntryPoint, Frozen
from airflow_ml.spec.source import Files

RESERVED = ("label", "ds")
"""Columns of a training set that we add."""


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
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns declared twice: {', '.join(twice)}")
        taken = [name for name in names if name in (self.entity, self.event_time, *RESERVED)]
        if taken:
            raise ValueError(
                f"{taken[0]!r} cannot be a model input: the entity, the event time, 'label' and 'ds' are beside them; "
                "give the feature another name"
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

    @property
    def lag(self) -> int:
        """Days between a partition and the newest outcomes known at its 00:00: ``delay + 1``."""
        return self.delay + 1
