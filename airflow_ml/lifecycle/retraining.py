"""The retrain decision: a pure function of what a window showed and of what was decided before it.

Everything counts in data time, the ends of windows, and never by the clock or by what a scheduler is doing, so that a
backfill decides what the live run would have decided:

    broken_input   the data broke, not the world: a person must look, and nothing is retrained on it
    not_judged     too little to judge, or nothing to train on
    healthy        nothing that counts has drifted
    in_flight      drifted; a retraining was decided so recently that its model cannot have made these predictions
    cooling_down   drifted; within `Monitoring.cooldown` of the last retraining
    no_budget      drifted; `Budget.retrainings` are used up in the `Budget.period` that ends here
    retrain        drifted; the training run ``drift__<window end>`` is to be started

A decision names the run that has to exist, and `unsettled` the one that an earlier window decided and that a crash may
have lost. Starting one is idempotent by its run id, so naming it again never trains twice. That no two trainings run at
once, whatever was decided, is held where they run: the training DAG has one active run.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal

from airflow_ml.lifecycle.observations import Observation, Status
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model
from airflow_ml.spec.base import Frozen

Verdict = Literal["healthy", "retrain", "broken_input", "cooling_down", "in_flight", "no_budget", "not_judged"]


class LedgerEntry(Frozen):
    """A decision that was taken for an earlier window."""

    window_end: date
    decision: Verdict
    training: Window | None = None


class Training(Frozen):
    """A training run that has to exist.

    Attributes:
        run_id: ``drift__<window end>``: the same window always names the same run.
        window: Days to train on.
    """

    run_id: str
    window: Window


class Decision(Frozen):
    """What follows from a window.

    Attributes:
        decision: The verdict.
        reasons: Why, one sentence each.
        training: The run to start, for ``retrain`` only.
    """

    decision: Verdict
    reasons: tuple[str, ...]
    training: Training | None = None


def run_id(window_end: date) -> str:
    """Id of the training run that a window's drift starts."""
    return f"drift__{window_end.isoformat()}"


def decide(observation: Observation, model: Model, ledger: Sequence[LedgerEntry]) -> Decision:
    """Decide whether a model is trained again.

    Args:
        observation: Of the window.
        model: Its `monitoring` is the policy; `training` and `start` bound the training window.
        ledger: Decisions of other windows, in any order. Those of this window's end or later do not count: a rerun of a
            window finds its own row, a backfill finds later ones, and both must decide what the first run decided.
    """
    end = observation.window.end
    policy = model.monitoring
    started = sorted((e for e in ledger if e.decision == "retrain" and e.window_end < end), key=lambda e: e.window_end)

    if observation.broken:
        return Decision(decision="broken_input", reasons=observation.broken)
    counted = counting(observation, model)
    failed = [name for name, status in counted.items() if status == "fail"]
    unjudged = [name for name, status in counted.items() if status == "not_judged"]
    if not failed and len(unjudged) == len(counted):
        return Decision(decision="not_judged", reasons=observation.notes or ("nothing could be judged",))
    if not failed:
        reasons = (_passed(counted), *observation.notes) if unjudged else (_passed(counted),)
        return Decision(decision="healthy", reasons=reasons)

    why = tuple(_explain(name, observation, model) for name in failed)
    last = started[-1] if started else None
    age = (end - last.window_end).days if last else None
    # Decided at 00:00 of `window_end + lag`, when the labels are there: the earliest that the new model can score is
    # the partition after it. Until then every prediction is the predecessor's, and its drift has been answered already.
    if last and age is not None and age <= model.label.lag:
        text = (
            f"{run_id(last.window_end)} was decided {age} day(s) before; its model cannot have made these predictions"
        )
        return Decision(decision="in_flight", reasons=(*why, text))
    if last and age is not None and age <= policy.cooldown:
        text = f"{run_id(last.window_end)} was decided {age} day(s) before; the cooldown is {policy.cooldown} days"
        return Decision(decision="cooling_down", reasons=(*why, text))
    period, allowed = policy.budget.period, policy.budget.retrainings
    spent = [e for e in started if (end - e.window_end).days < period]
    if len(spent) >= allowed:
        text = f"{len(spent)} retraining(s) in the {period} days up to {end}; the budget is {allowed}"
        return Decision(decision="no_budget", reasons=(*why, text))
    window = training_window(observation, model)
    held_out = model.training.split.validation + model.training.split.test
    if window is None or len(window) <= held_out:
        have = "no day is" if window is None else f"only {window} is"
        text = f"{have} labelled, and a training set needs more than {held_out} days; shorten the split or wait"
        return Decision(decision="not_judged", reasons=(*why, text))
    return Decision(decision="retrain", reasons=why, training=Training(run_id=run_id(end), window=window))


def counting(observation: Observation, model: Model) -> dict[str, Status]:
    """The tests that the policy lets decide, by name."""
    policy = model.monitoring
    tests: dict[str, Status] = {"data_drift": observation.data_drift}
    if policy.min_roc_auc is not None:
        tests["performance"] = observation.performance
    if policy.on_prediction_drift:
        tests["prediction_drift"] = observation.prediction_drift
    if policy.on_target_drift:
        tests["target_drift"] = observation.target_drift
    return tests


def training_window(observation: Observation, model: Model) -> Window | None:
    """What a retraining learns from: `training.window` days up to the newest labelled one, none before `start`."""
    end = observation.labelled_until
    if end is None or end < model.start:
        return None
    window = Window.ending(end, model.training.window)
    return Window.of(max(window.start, model.start), end)


def reach(model: Model) -> int:
    """Days before a window's end in which an earlier retraining can decide anything."""
    return max(model.label.lag, model.monitoring.cooldown, model.monitoring.budget.period)


def unsettled(model: Model, end: date, started: Sequence[LedgerEntry]) -> tuple[Training, ...]:
    """The last retraining before ``end`` while it still holds off another one.

    Its trigger may be lost, so it is named again, and whoever starts it finds the run there. A run that exists and
    failed is a person's to clear: it is not started twice by itself. Neither holds up its model for ever: once lag and
    cooldown are over, a window that has drifted starts a run of its own, on newer data.
    """
    for entry in started[-1:]:
        if entry.training is not None and (end - entry.window_end).days <= max(
            model.label.lag, model.monitoring.cooldown
        ):
            return (Training(run_id=run_id(entry.window_end), window=entry.training),)
    return ()


def _passed(counted: dict[str, Status]) -> str:
    return "passed: " + ", ".join(name for name, status in counted.items() if status == "pass")


def _explain(test: str, seen: Observation, model: Model) -> str:
    policy = model.monitoring
    if test == "data_drift":
        names = seen.drifted_columns
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        return (
            f"data drift: {len(names)} of {len(seen.columns)} columns ({_share(seen.drifted_share)}; "
            f"the limit is {_share(policy.drifted_share)}): {shown}"
        )
    if test == "performance":
        return (
            f"performance: ROC AUC {_number(seen.roc_auc)} on {seen.labelled} labelled rows, below {policy.min_roc_auc}"
        )
    if test == "prediction_drift":
        return (
            f"prediction drift: distance {_number(seen.prediction_distance)}, the limit is {policy.numeric_distance}; "
            f"mean {_number(seen.prediction_mean)} against {_number(seen.prediction_mean_reference)}"
        )
    return (
        f"target drift: distance {_number(seen.target_distance)}, the limit is {policy.category_distance}; "
        f"positive {_share(seen.positive_rate)} against {_share(seen.positive_rate_reference)}"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"
