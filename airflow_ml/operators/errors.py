"""Our errors as Airflow's: which of them a retry can mend."""

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_ml.lifecycle.errors import (
    AirflowMLError,
    BadTrainingSet,
    ChampionMoved,
    DataBroken,
    ExportRefused,
    MissingResult,
    NotReleasable,
    SpecError,
)

PERMANENT = (BadTrainingSet, ChampionMoved, DataBroken, ExportRefused, MissingResult, NotReleasable, SpecError)
"""The same again would fail the same way: a person must look. Others may pass: a late file comes, a disk gets room."""


def as_airflow(error: AirflowMLError) -> AirflowException:
    """The exception that ends a task: without retries for a permanent error."""
    text = f"{type(error).__name__}: {error}"
    return AirflowFailException(text) if isinstance(error, PERMANENT) else AirflowException(text)
