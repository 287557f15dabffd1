"""The release record of a model as Airflow's processes see it: small files, read and answered without an engine.

Operators, sensors, triggers and the API server's pages look at who is champion, who has which traffic and what a person
has said. Whatever loads, labels or promotes a model is done by a stage.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from airflow_ml.lifecycle.approvals import Answer, standing
from airflow_ml.lifecycle.errors import NotReleasable, RolloutMoved, RoutingMoved
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.rollout import Rollout
from airflow_ml.lifecycle.rollout_moves import interrupted
from airflow_ml.lifecycle.rollout_operations import routing
from airflow_ml.registry import approvals, champions, rollouts, routes
from airflow_ml.spec import Platform

_ATTEMPTS = 5


class ReleaseRecord:
    """One model's record.

    Args:
        platform: Says where it is.
        model_name: Whose.
    """

    def __init__(self, platform: Platform, model_name: str) -> None:
        self.platform = platform
        self.model_name = model_name

    @property
    def folder(self) -> Path:
        """``<base>/releases/<model>``."""
        return Path(self.platform.base) / "releases" / self.model_name

    def release(self, version: int) -> Release:
        """A registered version, checked against its gate report.

        Raises:
            NotReleasable: No such version, or its gate report is gone or changed.
        """
        return champions.release_of(self.platform, self.model_name, version)

    def report(self, release: Release) -> GateReport:
        """Its gate report."""
        return GateReport.model_validate_json(Path(release.gate_report.uri).read_bytes())

    def champion(self) -> int | None:
        """Who rules."""
        return champions.ruling(self.platform, self.model_name)

    def history(self) -> tuple[champions.Champion, ...]:
        """All reigns, the newest first."""
        return champions.history(self.platform, self.model_name)

    def back(self) -> int:
        """Where a rollback without a version leads: to the stable version of an open rollout; else before the champion.

        Raises:
            NotReleasable: There is none.
        """
        running = self.rollout()
        found = running.back_to if running is not None and running.open else None
        found = found or champions.before(self.platform, self.model_name)
        if found is None:
            raise NotReleasable(
                "there was no champion before", f"model {self.model_name}", "name the version to go back to"
            )
        return found

    def traffic(self, version: int) -> float:
        """The share of requests that a version answers, as the gateway is told: 0 to 1."""
        routing = routes.routing(self.platform, self.model_name)
        if routing is None:
            return 0.0
        arms = sum(arm.weight for arm in routing.arms if arm.version == version)
        rest = 1.0 - sum(arm.weight for arm in routing.arms)
        return round(arms + (rest if routing.stable == version else 0.0), 9)

    # what people have said

    def answers(self) -> tuple[Answer, ...]:
        """All answers, oldest first."""
        return approvals.answers(self.platform, self.model_name)

    def answer(self, release: Release, asker: str = "", cleared: int | None = None) -> Answer | None:
        """The answer that holds for a release, as `standing`; None when a person has to be asked."""
        return standing(self.answers(), release.gate_report.sha256, asker, cleared)

    def record(self, answer: Answer) -> None:
        """Keep an answer."""
        approvals.record(self.platform, self.model_name, answer)

    # a rollout on its way

    def rollout(self) -> Rollout | None:
        """The open rollout, or the one that ended last."""
        return rollouts.current(self.platform, self.model_name)

    def revision(self) -> int | None:
        """Of the rollout: it counts its changes."""
        found = self.rollout()
        return None if found is None else found.revision

    def mark(self) -> tuple[int, ...]:
        """Differs when somebody has moved the rollout or answered: who waits looks closer then. Nothing is read."""
        return tuple(_mark(self.folder / name) for name in ("rollout.json", "approvals.json"))

    def interrupt(self, release: str | None = None) -> bool:
        """Whoever carries the rollout out was stopped: do what its plan declares for that.

        Args:
            release: `Release.id` of what was on its way; None for whatever is.

        Returns:
            Whether all traffic is on the stable version now; the next run of the stage does the rest.
        """
        for _ in range(_ATTEMPTS):
            running = self.rollout()
            if running is None or not running.open or release not in (None, running.release):
                return False
            back = interrupted(running, datetime.now(UTC))
            if back is running:
                return False
            with suppress(RolloutMoved, RoutingMoved):
                with rollouts.held(self.platform, saved := rollouts.save(self.platform, back)):
                    self._route(saved)
                return True
        return False

    def _route(self, rollout: Rollout) -> None:
        """Traffic as a rollout's state wants it. Experiments and open versions are somebody else's, and stay."""
        now, wanted = routes.routing(self.platform, self.model_name), routing(rollout)
        if now is None or wanted is None:
            return
        wanted = wanted.model_copy(update={"experiments": now.experiments, "alpha": now.alpha})
        if wanted != now:
            routes.route(self.platform, self.model_name, wanted, now, rollout.reason)


def _mark(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
