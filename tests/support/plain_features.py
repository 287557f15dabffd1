"""Features that Spark builds in no time: for tests of what happens around a build."""

from airflow_ml import Features, at_least
from airflow_ml.examples.flights.model import flights

PLAIN = flights.model_copy(
    update={
        "features": Features(
            build="tests.support.plain_features:build",
            entity="flight_id",
            event_time="scheduled_departure",
            categorical=("carrier",),
            numeric=("distance",),
            history=flights.features.history,
        ),
        "slices": ("carrier",),
        "gates": (at_least("roc_auc", 0.5),),
    }
)
"""The flights, with two columns of the source as features."""


def build(inputs):
    """The columns as they are."""
    return inputs.raw.select("flight_id", "scheduled_departure", "ds", "carrier", "distance")
