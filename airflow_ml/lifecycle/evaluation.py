"""What evaluation found: the numbers that gates judge, each with its rows and a bootstrap interval."""

from airflow_ml.spec.base import Frozen


class Metric(Frozen):
    """A number with its interval.

    Attributes:
        value: None where it could not be computed (one class, no rows); in JSON a NaN becomes None, too.
        low: Lower end of the bootstrap interval.
        high: Upper end.
        rows: Labelled rows that it was computed on.
        reason: Why there is no value; empty when there is one.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    rows: int
    reason: str = ""


class Slice(Frozen):
    """The metrics of one value of a slice column."""

    column: str
    value: str
    rows: int
    metrics: dict[str, Metric]


class Bin(Frozen):
    """One bin of a calibration curve.

    Attributes:
        low: Lower edge of the predicted probability, included.
        high: Upper edge.
        rows: Rows in the bin.
        predicted: Mean predicted probability; None in an empty bin.
        observed: Share of positives; None in an empty bin.
    """

    low: float
    high: float
    rows: int
    predicted: float | None
    observed: float | None


class ChampionEvaluation(Frozen):
    """The champion on the *same* rows as the candidate."""

    version: int
    metrics: dict[str, Metric]


class Evaluation(Frozen):
    """A candidate on the test split.

    Attributes:
        metrics: By name: roc_auc, pr_auc, log_loss, brier, ece, and precision and recall at ``threshold``.
        slices: One for each value of each declared slice column.
        calibration: Bins of the predicted probability.
        ece: Expected calibration error: the bins' absolute errors, weighted by rows.
        champion: None where there was none.
        rows: Rows of the test split.
        positive_share: Of the test split.
        threshold: Of precision and recall.
    """

    metrics: dict[str, Metric]
    slices: tuple[Slice, ...] = ()
    calibration: tuple[Bin, ...] = ()
    ece: Metric
    champion: ChampionEvaluation | None = None
    rows: int
    positive_share: float
    threshold: float
