"""One start of all ranks: what came of them, when there is nothing more to wait for, and what it amounts to. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.training.agent import SILENCE_S
from airflow_ml.training.events import Event
from airflow_ml.training.failures import LOST_PEER, SETTLE_S, Outcome, failure, hang
from airflow_ml.training.muster import Pod
from airflow_ml.training.pulse import ALIVE
from airflow_ml.training.ranks import YIELDED
from airflow_ml.training.watchdog import Hang, Watchdog
from airflow_ml.training.wire import Message


@dataclass
class Generation:
    """One start of all ranks.

    Attributes:
        number: From 1.
        ranks: Pod of each rank, by rank.
        watchdog: Hears their pulses.
        outcomes: Of ranks that have ended.
        failures: Events ``failed``, as they came.
        finished: Event of rank 0.
        lost: A pod that is gone.
        failed_at: When the first rank failed.
        checkpoints: That were reported.
        asked: Whether the ranks were asked to stop at their next checkpoint.
        hung: A rank that hangs.
    """

    number: int
    ranks: Mapping[int, Pod]
    watchdog: Watchdog
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    failures: list[Event] = field(default_factory=list)
    finished: Event | None = None
    lost: Pod | None = None
    failed_at: float | None = None
    checkpoints: int = 0
    asked: bool = False
    hung: Hang | None = None

    def take(self, message: Message, now: float) -> Event | None:
        """Note what an agent said; returns the event that it passed on."""
        event: Event | None = message.get("event")
        if event is not None:
            if event["event"] == ALIVE:
                self.watchdog.hear(event, now)
                return None
            if event["event"] == "failed":
                self.failures.append(event)
            elif event["event"] == "finished":
                self.finished = event
            elif event["event"] == "checkpoint":
                self.checkpoints += 1
        else:
            rank = int(message["rank"])
            where = f"pod {self.ranks[rank].index}"
            self.outcomes[rank] = Outcome(rank, int(message["code"]), str(message["tail"]), where)
        bad = bool(self.failures) or any(each.code not in (0, YIELDED) for each in self.outcomes.values())
        if bad and self.failed_at is None:
            self.failed_at = now
        return event

    def lose(self, pod: Pod) -> None:
        """Note that a pod is gone; one that ended well first, and left then, is not missed."""
        its = [self.outcomes.get(rank) for rank, at in self.ranks.items() if at is pod]
        if self.lost is None and any(outcome is None or outcome.code != 0 for outcome in its):
            self.lost = pod

    def ended(self, now: float) -> bool:
        """Whether there is nothing more to wait for."""
        if self.lost is not None or len(self.outcomes) == len(self.ranks):
            return True
        if self.failed_at is None:
            self.hung = self.watchdog.hung([rank for rank in self.ranks if rank not in self.outcomes], now)
            return self.hung is not None
        return now - self.failed_at > self._settle_s()

    @property
    def yielded(self) -> bool:
        """Whether the ranks have stopped because they were asked to."""
        codes = {outcome.code for outcome in self.outcomes.values()}
        return codes == {YIELDED} and len(self.outcomes) == len(self.ranks)

    @property
    def killed(self) -> bool:
        """Whether ranks were ended by signals, and all that the others say is that they lost them."""
        by_signal = any((outcome.code or 0) < 0 for outcome in self.outcomes.values())
        return by_signal and all(event["error"] == LOST_PEER for event in self.failures)

    @property
    def trouble(self) -> tuple[object, ...] | None:
        """What went wrong in the ranks' program, and at which step: it may not happen twice."""
        if self.hung is not None:
            return ("hangs", self.hung.epoch, self.hung.step)
        own = [event for event in self.failures if event["error"] != LOST_PEER]
        # An error of ours says what is wrong with the declaration, the data or the disk: the same again.
        if not own or own[0]["told"]:
            return None
        return (own[0]["what"], own[0]["epoch"], own[0]["step"])

    def _settle_s(self) -> float:
        """Who lost its peer waits until it is known whether that peer's pod is gone."""
        victims = all(event["error"] == LOST_PEER for event in self.failures)
        return SILENCE_S + SETTLE_S if self.failures and victims and not self.killed else SETTLE_S

    def result(self) -> Event:
        """The event ``finished``.

        Raises:
            AirflowMLError: The error of the rank that failed.
        """
        running = {rank: Outcome(rank, None, "", f"pod {pod.index}") for rank, pod in self.ranks.items()}
        outcomes = list({**running, **self.outcomes}.values())
        if self.hung is not None:
            raise hang(self.hung, outcomes)
        if self.failed_at is not None:
            raise failure(outcomes, self.failures)
        if self.finished is None:
            raise TrainingFailed("the ranks ended without a model", where="the pods", remedy="read their logs")
        return self.finished
