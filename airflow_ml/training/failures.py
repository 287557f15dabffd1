"""Why a training failed: out of several ranks that ended badly, the one that failed by itself."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_ml.lifecycle.errors import AirflowMLError, TrainingFailed
from airflow_ml.training.events import Event
from airflow_ml.training.watchdog import Hang

SETTLE_S = 2.0
"""How long others may tell why they failed, after the first rank did: the one that ended first is often only a
victim."""

LOST_PEER = "HorovodInternalError"
"""What a rank raises whose peer is gone."""

LOG_LINES = 15


@dataclass(frozen=True)
class Outcome:
    """How a rank is or was.

    Attributes:
        rank: Its number.
        code: Exit code, negative for a signal; None while it runs.
        tail: Last lines of its log.
        where: Its log, or its pod.
    """

    rank: int
    code: int | None
    tail: str
    where: str


def failure(outcomes: Sequence[Outcome], failures: Sequence[Event]) -> AirflowMLError:
    """The error of the rank that failed by itself, rather than of those that lost their peer.

    One of ours that is not about the training (the disk is full) says all that there is to say.

    Args:
        outcomes: Of all ranks, in their order; of those that failed, the first to do so counts.
        failures: Events ``failed``, in the order in which they came.
    """
    remedy = "the next try resumes after the last finished epoch"
    number = len(outcomes)
    failed = [outcome for outcome in outcomes if outcome.code not in (None, 0)]
    killed = [outcome for outcome in failed if outcome.code is not None and outcome.code < 0]
    own = [event for event in failures if event["error"] != LOST_PEER]
    if own:
        event = own[0]
        if event["told"] and event["error"] != TrainingFailed.__name__:
            return AirflowMLError.from_dict(event)
        about = outcomes[int(event["rank"])]
        what = f"rank {about.rank} of {number} failed: {event['what']}"
        remedy = event.get("remedy") or f"correct the cause; {remedy}"
    elif killed:
        about = killed[0]
        name = signal.Signals(-(about.code or 0)).name
        what = f"rank {about.rank} of {number} was ended by {name}"
        if name == "SIGKILL":
            remedy = f"if the machine ran out of memory, use fewer workers or a shorter window; {remedy}"
    elif failures:
        about = outcomes[int(failures[0]["rank"])]
        what = f"rank {about.rank} of {number} lost the others: {failures[0]['what']}"
    else:
        about = failed[0]
        what = f"rank {about.rank} of {number} ended with exit code {about.code}"
    return TrainingFailed(f"{what}. Its last log lines:\n{about.tail}\n", where=about.where, remedy=remedy)


def hang(found: Hang, outcomes: Sequence[Outcome]) -> TrainingFailed:
    """The error of a rank that hangs.

    Args:
        found: What the watchdog knows.
        outcomes: Of all ranks, in their order.
    """
    about = outcomes[found.rank]
    where = f"in step {found.step} of epoch {found.epoch}" if found.epoch else "before the first step"
    return TrainingFailed(
        f"rank {about.rank} of {len(outcomes)} hangs {where}: {found.what}. Its last log lines:\n{about.tail}\n",
        where=about.where,
        remedy="correct what it waits for, or raise training.step_timeout_s; the next try resumes from the last "
        "checkpoint",
    )
