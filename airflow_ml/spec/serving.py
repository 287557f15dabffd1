"""Serving and scoring: what a release looks like online and at night."""

from pydantic import Field

from airflow_ml.spec.base import EntryPoint, Frozen


class Serving(Frozen):
    """How a release is served online.

    Attributes:
        golden_rows: Rows of the test split that are kept with the release as golden requests.
        builder: ``fn(module: torch.nn.Module, preprocessing: Preprocessing) -> tf.Module`` for a network with operators
            that the built-in conversion does not know; None uses that.
        probe_timeout_s: How long a release waits for the server to load the model and answer them.
    """

    golden_rows: int = Field(default=32, ge=1, le=1000)
    builder: EntryPoint | None = None
    probe_timeout_s: float = Field(default=120.0, gt=0)


class Scoring(Frozen):
    """Nightly scoring by the champion.

    Attributes:
        threshold: A probability at or above it is a positive decision.
        batch_rows: Rows in memory at a time.
    """

    threshold: float = Field(default=0.5, gt=0, lt=1)
    batch_rows: int = Field(default=8192, ge=1)
