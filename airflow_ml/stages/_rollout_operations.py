"""What a rollout's operations do: on the model server, on the gateway's routing, on the champion.

Each may be done again without harm. What changes something is done while nobody else can move the rollout on
(`rollouts.held`); what only waits or looks is not, so that a person who rolls back never has to wait for it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import ChampionMoved, ServingError
from airflow_ml.lifecycle.judging import Judgement
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.rollout import CANARY, Rollout, State
from airflow_ml.lifecycle.rollout_operations import Operation
from airflow_ml.lifecycle.routing import Routing
from airflow_ml.registry import champions, rollouts, routes
from airflow_ml.stages._rollout_looks import look
from airflow_ml.stages._rollout_server import Server
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import verify

if TYPE_CHECKING:
    from airflow_ml.serving.golden import GoldenRequest

_WARM_UP_S = 5.0
_WARM_UP_REQUESTS = 50


def carry_out(ctx: StageContext, server: Server, rollout: Rollout, operation: Operation) -> Judgement | None:
    """Do one operation of a rollout's state.

    Returns:
        The judgement, if it was to look.

    Raises:
        RolloutMoved: Somebody else moved the rollout on; nothing was done.
        ChampionMoved: Another version was promoted meanwhile.
        ServingError: It cannot be done; the message says why.
    """
    version, way_back = operation.version, rollout.state is State.ROLL_BACK
    match operation.kind:
        case "publish":
            # No server reads what no config names: it takes as long as a copy does, and nobody waits for it.
            server.publish(_release(ctx, version))
        case "serve":
            with _ours(ctx, rollout):
                server.serve(set(operation.versions) | _used(ctx, server, rollout))
        case "await" if operation.label:
            server.wait_label(operation.label, _named(version), way_back)
        case "await":
            server.wait_available(_named(version))
        case "warm_up":
            _warm_up(server, _golden(_release(ctx, version)), _named(version))
        case "probe":
            _probe(server, _golden(_release(ctx, version)), _named(version))
        case "route":
            with _ours(ctx, rollout):
                _route(ctx, rollout, operation.routing)
        case "label":
            with _ours(ctx, rollout):
                server.label(operation.label, version, way_back)
            # On the way back there is more to be written before anything is waited for.
            if version is not None and not way_back:
                server.wait_label(operation.label, version, way_back)
        case "promote":
            reason = rollout.reason if way_back else rollout.why or "passed its rollout"
            by_hand = way_back or rollout.by_hand
            with rollouts.held(ctx.platform, rollout):
                champions.promote(ctx.platform, _release(ctx, version), operation.expected, reason, by_hand)
        case "judge":
            return look(ctx, server, rollout, datetime.now(UTC))
    return None


@contextmanager
def _ours(ctx: StageContext, rollout: Rollout) -> Iterator[None]:
    """Nobody else moves the rollout on, and nobody else promoted: what it does would turn their traffic away.

    Raises:
        RolloutMoved: Somebody did the one.
        ChampionMoved: Or the other.
    """
    with rollouts.held(ctx.platform, rollout):
        known = (None, rollout.stable, rollout.version, rollout.overtaken_by)
        champion = champions.ruling(ctx.platform, rollout.model)
        if champion not in known:
            raise ChampionMoved(
                f"the champion is version {champion}: somebody promoted",
                f"model {rollout.model}, version {rollout.version}",
                "look at both versions, then roll out the better one",
            )
        yield


def _named(version: int | None) -> int:
    assert version is not None
    return version


def _release(ctx: StageContext, version: int | None) -> Release:
    return champions.release_of(ctx.platform, ctx.model.name, _named(version))


def _golden(release: Release) -> "list[GoldenRequest]":
    from airflow_ml.serving.golden import read_golden

    return read_golden(verify(release.golden.uri, release.golden.sha256))


def _used(ctx: StageContext, server: Server, rollout: Rollout) -> set[int]:
    """Loaded versions that are not the rollout's to unload.

    Those of other people's labels, experiments and open versions, and the champion before the one that rules: the
    gateway asks it when that one does not answer.
    """
    now = routes.routing(ctx.platform, rollout.model)
    reigns = champions.history(ctx.platform, rollout.model)
    used: set[int | None] = {version for label, version in server.labels().items() if label != CANARY}
    used |= set(now.versions if now else ()) | ({reigns[0].previous} if reigns else set())
    if rollout.state is State.ROLL_BACK:
        used.discard(rollout.version)
    if rollout.mode == "rollback":
        used.discard(rollout.stable)
    return {version for version in server.configured() if version in used}


def _route(ctx: StageContext, rollout: Rollout, wanted: Routing | None) -> None:
    """Change who answers. Experiments and open versions are somebody else's, and stay."""
    now = routes.routing(ctx.platform, rollout.model)
    if wanted is None or now is None:
        return
    going = {rollout.version} if rollout.state is State.ROLL_BACK else set()
    kept = {
        "experiments": tuple(e for e in now.experiments if not going & {arm.version for arm in e.arms}),
        "alpha": tuple(version for version in now.alpha if version not in going),
    }
    wanted = wanted.model_copy(update=kept)
    if wanted != now:
        reason = f"rollout of version {rollout.version}: {rollout.state}"
        routes.route(ctx.platform, rollout.model, wanted, now, reason)


def _warm_up(server: Server, golden: "list[GoldenRequest]", version: int) -> None:
    """Ask everywhere until the first slow answers are over. Whether they are right is asked afterwards."""
    for address in server.addresses:
        end = time.monotonic() + _WARM_UP_S
        with server.client(address) as client:
            for request in islice(cycle(golden), _WARM_UP_REQUESTS):
                try:
                    client.predict(server.model, request.columns(), version=version)
                except ServingError as error:
                    log.info("while warming up: %s", error)
                if time.monotonic() > end:
                    break


def _probe(server: Server, golden: "list[GoldenRequest]", version: int) -> None:
    """Golden requests to every replica and over both protocols, compared with the offline answers."""
    from airflow_ml.serving.probe import probe

    for address in server.addresses:
        with server.client(address) as client:
            found = probe(client, golden, server.model, version)
        if not found.ok:
            raise ServingError(
                f"the golden requests are not answered as they should be: {'; '.join(found.failures)}",
                where=f"{client.address} model {server.model} version {version}",
                remedy="look at the server's log, and at how the version was exported",
            )
