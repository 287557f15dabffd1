"""Monitoring: the window that is watched, what counts as drift, and how often a model may be retrained."""

from pydantic import Field

from airflow_ml.spec.base import Days, Frozen


class Budget(Frozen):
    """At most ``retrainings`` in any ``period``, counted in data time (the windows' ends)."""

    retrainings: int = Field(default=2, ge=0)
    period: Days = Field(default=30, ge=1)


class Monitoring(Frozen):
    """What is watched, and what follows.

    Attributes:
        window: Days that a verdict looks at, the newest being the run's partition.
        drifted_share: The window has drifted when at least this share of the watched columns has.
        columns: Columns to watch for data drift; None watches every model input.
        numeric_distance: A number column, or the probability, has drifted when its Wasserstein distance from the
            reference, in standard deviations of the reference, reaches this. For a pure shift that is Cohen's d: 0.2 is
            small, 0.5 medium, 0.8 large.
        category_distance: A category column, or the label, has drifted when its Jensen-Shannon distance (natural
            logarithm, 0 to 0.83) from the reference reaches this. A rate that goes from 20 % to 34 % has moved by 0.11.
        min_roc_auc: Performance below it counts as drift; None does not judge performance.
        on_prediction_drift: Whether a drift of the predicted probability alone is drift.
        on_target_drift: Whether a drift of the label's rate alone is drift.
        min_coverage: A window with a smaller share of labelled predictions is not judged on performance.
        min_rows: A window with fewer predictions is not judged at all.
        cooldown: Days after a retraining's window in which no other is started.
        budget: Retrainings allowed in a period.
        sample_rows: Rows that go into an Evidently report at most; the report says how many it saw.
    """

    window: Days = Field(default=7, ge=1)
    drifted_share: float = Field(default=0.5, gt=0, le=1)
    columns: tuple[str, ...] | None = None
    numeric_distance: float = Field(default=0.5, gt=0)
    category_distance: float = Field(default=0.1, gt=0, le=1)
    min_roc_auc: float | None = Field(default=None, gt=0, lt=1)
    on_prediction_drift: bool = False
    on_target_drift: bool = False
    min_coverage: float = Field(default=0.8, ge=0, le=1)
    min_rows: int = Field(default=500, ge=1)
    cooldown: Days = 14
    budget: Budget = Budget()
    sample_rows: int = Field(default=10_000, ge=100)
