"""Release: a version that passed its gates becomes what the model server answers with, and the champion.

    publish the SavedModel → the server loads it → golden requests → compare-and-set of the champion → label ``stable``

Every step looks first whether it is done, so a run that was killed between any two steps is repeated from the
start. The champion moves before the label: a server that is behind by one retry still answers with a version that
was released.

Automatic runs take the version of `register` and expect the champion that its gates were judged against. With
``{"version": 3}`` a person promotes or rolls back to a version that passed, whoever is champion now.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.releases import Release as ReleaseRecord
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.registry import champions
from airflow_ml.stages._files import file_of, wanted_version
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import locked, verify

if TYPE_CHECKING:
    from airflow_ml.serving.client import Client
    from airflow_ml.serving.deployment import ModelConfigFile

LABEL = "stable"
"""Label of the champion's version in the model server."""


class Release(Stage):
    """Summary ``version``, ``release``, ``previous_champion``, ``champion``."""

    name = "release"
    components = ("grpcio", "mlflow")
    params = ("version", "reason", *TRAINING)

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The release, who chose it, and the server that it goes to."""
        record, by_hand = _chosen(ctx)
        return {
            "release": record.id,
            "by_hand": by_hand,
            "expected": None if by_hand else record.previous_champion,
            "serving": [ctx.platform.serving_folder, ctx.platform.serving.grpc, ctx.platform.serving.rest],
        }

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """The version is champion, and published."""
        reigns = champions.history(ctx.platform, ctx.model.name)
        published = Path(ctx.platform.serving_folder) / ctx.model.name / str(result.summary["version"])
        return bool(reigns) and reigns[0].version == result.summary["version"] and published.is_dir()

    def run(self, ctx: StageContext) -> Outcome:
        """Publish, load, ask, promote, label."""
        release, by_hand = _chosen(ctx)
        release.require_passed()
        lock = ctx.base / "releases" / ctx.model.name / ".release.lock"
        with locked(lock, waiting=lambda: log.info("another release of this model is running; waiting for it")):
            reigns = champions.history(ctx.platform, ctx.model.name)
            now = reigns[0].version if reigns else None
            expected = now if by_hand else release.previous_champion
            champions.require_movable(ctx.platform, release, expected, by_hand)
            _deploy(ctx, release)
            with ctx.timed("champion"):
                # Kept for people: it is no part of what identifies the release.
                reason = str(ctx.params.get("reason") or ("chosen by hand" if by_hand else "passed its gates"))
                reign = champions.promote(ctx.platform, release, expected, reason, by_hand)
            with ctx.timed("label"):
                _label(ctx, release, reign.previous)
        return Outcome(
            summary={
                "version": release.version,
                "release": release.id,
                "previous_champion": reign.previous,
                "champion": reign.version,
                "by_hand": by_hand,
            },
        )


def _chosen(ctx: StageContext) -> tuple[ReleaseRecord, bool]:
    """The registered record of the wanted version, and whether a person wants it."""
    version = wanted_version(ctx)
    if version is not None:
        return champions.release_of(ctx.platform, ctx.model.name, version), True
    registered = file_of(ctx.upstream("register"), "release")
    named = ReleaseRecord.model_validate_json(verify(registered.uri, registered.sha256).read_bytes())
    return champions.release_of(ctx.platform, ctx.model.name, named.version), False


def _deploy(ctx: StageContext, release: ReleaseRecord) -> None:
    """Have the running server load the version, and ask it the golden requests over both protocols."""
    from airflow_ml.serving.client import connect
    from airflow_ml.serving.deployment import ModelConfigFile, publish, wait_available
    from airflow_ml.serving.errors import ServingTimeout
    from airflow_ml.serving.golden import read_golden
    from airflow_ml.serving.probe import probe

    name, base = ctx.model.name, Path(ctx.platform.serving_folder)
    timeout_s = ctx.model.serving.probe_timeout_s
    golden = read_golden(verify(release.golden.uri, release.golden.sha256))
    with connect(f"grpc://{ctx.platform.serving.grpc}") as client:
        _require_server(ctx, client)
        with ctx.timed("publish"):
            publish(verify(release.saved_model.uri, release.saved_model.sha256), base, name, release.version)
            config = ModelConfigFile(base)
            # What a label points at is in use and stays.
            config.ensure_versions(name, {release.version, *config.labels(name).values()})
        try:
            with ctx.timed("load"):
                wait_available(client, name, release.version, timeout_s)
        except ServingTimeout as error:
            raise ServingError(
                error.what,
                where=error.where,
                remedy=f"does the server at {ctx.platform.serving.grpc} read {config.path}? "
                "`airflow-ml serve` starts one that does; then retry",
            ) from error
    for address in (f"grpc://{ctx.platform.serving.grpc}", f"http://{ctx.platform.serving.rest}"):
        with connect(address) as client, ctx.timed(f"golden requests to {address.partition(':')[0]}"):
            found = probe(client, golden, name, release.version)
        if not found.ok:
            raise ServingError(
                f"the golden requests are not answered as they should be: {'; '.join(found.failures)}",
                where=f"{address} model {name} version {release.version}",
                remedy="nothing was promoted; look at the server's log, then retry",
            )


def _require_server(ctx: StageContext, client: "Client") -> None:
    from airflow_ml.serving.errors import ModelNotServed, ServerUnreachable, ServingTimeout

    try:
        client.status(ctx.model.name)
    except ModelNotServed:
        return
    except (ServerUnreachable, ServingTimeout) as error:
        raise ServingError(
            f"the model server does not answer: {error.what}",
            where=ctx.platform.serving.grpc,
            remedy="start it with `airflow-ml serve`, or correct the platform's serving target; then retry",
        ) from error


def _label(ctx: StageContext, release: ReleaseRecord, previous: int | None) -> None:
    """Point ``stable`` at the version; the version before stays loaded, for a quick way back."""
    from airflow_ml.serving.client import connect
    from airflow_ml.serving.deployment import ModelConfigFile, wait_label

    config = ModelConfigFile(Path(ctx.platform.serving_folder))
    name = ctx.model.name
    config.set_label(name, LABEL, release.version)
    with connect(f"grpc://{ctx.platform.serving.grpc}") as client:
        wait_label(client, name, LABEL, release.version, ctx.model.serving.probe_timeout_s)
    config.ensure_versions(name, _kept(config, name, release.version, previous))


def _kept(config: "ModelConfigFile", name: str, version: int, previous: int | None) -> set[int]:
    loaded = set(config.versions(name))
    return ({version, *config.labels(name).values()} | ({previous} if previous else set())) & loaded


STAGE = Release()
