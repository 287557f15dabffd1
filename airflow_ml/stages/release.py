"""Release: a version that passed its gates takes all traffic at once, and is the champion.

    publish → load everywhere → warm up → golden requests → compare-and-set of the champion → label ``stable``

It is a rollout without steps, carried out in one run: what `rollout` says of records, kills and who may do what holds
here, too. What cannot be done leaves the version before it as it was, and is an error; a retry tries again.

Automatic runs take the version of `register` and expect the champion that its gates were judged against. With
``{"version": 3}`` a person promotes or rolls back to a version that passed, whoever is champion now.
"""

from typing import Any

from airflow_ml.lifecycle.approvals import needed
from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.lifecycle.rollout import State
from airflow_ml.registry import champions
from airflow_ml.stages._answers import answer_for
from airflow_ml.stages._rollout_driver import advance
from airflow_ml.stages._rollout_server import serving
from airflow_ml.stages._rollout_wishes import Asked, begun, champion_of, chosen, not_approved
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import locked


class Release(Stage):
    """Summary ``version``, ``release``, ``previous_champion``, ``champion``."""

    name = "release"
    components = ("grpcio", "mlflow")
    params = ("version", "reason", *TRAINING)

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The release, who chose it, and the servers that it goes to."""
        record, by_hand = chosen(ctx)
        return {
            "release": record.id,
            "by_hand": by_hand,
            "expected": None if by_hand else record.previous_champion,
            "serving": [ctx.platform.serving_folder, ctx.platform.serving.model_dump(mode="json")],
        }

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """The version is champion, and published."""
        version = result.summary["version"]
        if champion_of(ctx) != version:
            return False
        with serving(ctx) as server:
            return server.published(version)

    def run(self, ctx: StageContext) -> Outcome:
        """Roll it out at once.

        Raises:
            ServingError: It cannot be; the version before it answers.
        """
        release, by_hand = chosen(ctx)
        release.require_passed()
        if needed(ctx.model.approval, 1.0, answer_for(ctx, release.version)):
            raise not_approved(ctx.model.name, release.version)
        # Kept for people: it is no part of what identifies the release.
        reason = str(ctx.params.get("reason") or ("chosen by hand" if by_hand else "passed its gates"))
        lock = ctx.base / "releases" / ctx.model.name / ".release.lock"
        with locked(lock, waiting=lambda: log.info("another release of this model is running; waiting for it")):
            with serving(ctx) as server:
                found = advance(ctx, server, begun(ctx, server, Asked("at_once", why=reason), declared=None))
            if found.state is State.ROLLED_BACK:
                raise ServingError(
                    found.reason,
                    where=f"model {ctx.model.name}, version {release.version}",
                    remedy="nothing was promoted; look at the server's log, then retry",
                )
            reign = champions.history(ctx.platform, ctx.model.name)[0]
        return Outcome(
            summary={
                "version": release.version,
                "release": release.id,
                "previous_champion": reign.previous,
                "champion": reign.version,
                "by_hand": by_hand,
            },
        )


STAGE = Release()
