"""Register: the model becomes a version, with its gate report and its lineage; a rejected model, too.

The version is found again by the fingerprint of this stage, which covers the gate report: the same training judged
against another champion is another version. The `Release` record is what everything after this stage goes by.
"""

from typing import Any

from airflow_ml.lifecycle.errors import NotReleasable
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import JobResult
from airflow_ml.stages._files import file_of
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.code import code_version
from airflow_ml.stages.context import StageContext
from airflow_ml.storage import verify, write_atomically

_LONGEST_TAG = 4000


class Register(Stage):
    """File ``release``; summary ``version``, ``verdict``, ``alias``."""

    name = "register"
    components = ("mlflow",)
    params = TRAINING

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """All that a release refers to, by hash."""
        return {
            "gate_report": file_of(ctx.upstream("gates"), "gate_report").sha256,
            "saved_model": file_of(ctx.upstream("export"), "saved_model").sha256,
            "golden": file_of(ctx.upstream("export"), "golden").sha256,
            "reference": file_of(ctx.upstream("evaluate"), "test_predictions").sha256,
            "statistics": file_of(ctx.upstream("training_set"), "statistics").sha256,
            "training": ctx.upstream("train").fingerprint,
            "registry": ctx.platform.registry_uri,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Make or find the version, record the release, show it in MLflow."""
        with ctx.timed("import mlflow"):
            from airflow_ml.registry import champions, tracking, versions
            from airflow_ml.registry.client import client_of

            client_of(ctx.platform)
        training_set, trained, evaluated = (ctx.upstream(name) for name in ("training_set", "train", "evaluate"))
        exported, judged = ctx.upstream("export"), ctx.upstream("gates")
        saved_model, gate_report = file_of(exported, "saved_model"), file_of(judged, "gate_report")
        report = GateReport.model_validate_json(verify(gate_report.uri, gate_report.sha256).read_bytes())
        bound = (report.saved_model_sha256, report.training_fingerprint)
        if bound != (saved_model.sha256, trained.fingerprint):
            raise NotReleasable(
                "the gate report is about another model", where=gate_report.uri, remedy="run the stage gates again"
            )
        with ctx.timed("register"):
            said = {"airflow_ml.verdict": report.verdict, "mlflow.note.content": _note(report)}
            run_id = tracking.start_run(ctx.platform, ctx.model.name, trained.fingerprint, tags=said)
            version = versions.register(
                ctx.platform,
                ctx.model.name,
                ctx.fingerprint,
                saved_model=verify(saved_model.uri, saved_model.sha256).as_posix(),
                run_id=run_id,
                tags=_lineage(ctx, report, gate_report.sha256, training_set, trained),
            )
            release = Release(
                model=ctx.model.name,
                version=version,
                verdict=report.verdict,
                saved_model=saved_model,
                gate_report=gate_report,
                golden=file_of(exported, "golden"),
                reference=file_of(evaluated, "test_predictions"),
                statistics=file_of(training_set, "statistics"),
                signature=exported.summary["signature"],
                training_fingerprint=trained.fingerprint,
                previous_champion=report.champion,
                trained_to=trained.window.end if trained.window else None,
                metrics=evaluated.metrics,
                reasons=report.reasons,
                mlflow_run_id=run_id,
                usage=trained.summary.get("usage", {}),
                reports={**judged.reports, **evaluated.reports},
            )
            champions.record(ctx.platform, release)
            is_challenger = version in champions.challengers(ctx.platform, ctx.model.name)
            if is_challenger:
                versions.set_challenger(ctx.platform, ctx.model.name, version)
        with ctx.timed("show in MLflow"):
            tracking.log_metrics(
                ctx.platform, run_id, {f"test_{name}": value for name, value in evaluated.metrics.items()}
            )
            for shown in (gate_report, *judged.reports.values(), *evaluated.reports.values()):
                tracking.log_artifacts(ctx.platform, run_id, shown.uri, f"version-{version}")
            tracking.end_run(ctx.platform, run_id)
        write_atomically(ctx.files / "release.json", release.model_dump_json(indent=2))
        return Outcome(
            outputs={"release": ctx.pin(ctx.files / "release.json", "application/json")},
            summary={
                "version": version,
                "release": release.id,
                "verdict": release.verdict,
                "reasons": list(release.reasons),
                "alias": versions.CHALLENGER if is_challenger else None,
                "mlflow_run_id": run_id,
                "mlflow_experiment_id": tracking.experiment_of(ctx.platform, run_id),
            },
        )


def _note(report: GateReport) -> str:
    """What MLflow shows at the top of the training's run."""
    return report.verdict + "".join(f"\n- {reason}" for reason in report.reasons)


def _lineage(
    ctx: StageContext, report: GateReport, gate_report_sha256: str, training_set: JobResult, trained: JobResult
) -> dict[str, str]:
    """Tags of the version: what it was made from, and what its gates said."""
    tags = {
        "verdict": report.verdict,
        "reasons": "\n".join(report.reasons)[:_LONGEST_TAG],
        "gate_report_sha256": gate_report_sha256,
        "saved_model_sha256": report.saved_model_sha256,
        "training_fingerprint": trained.fingerprint,
        "training_window": str(trained.window or ""),
        "previous_champion": str(report.champion or ""),
        "spec_hash": trained.spec_hash,
        "code_version": _users_code(ctx),
    }
    tags |= {name: str(value) for name, value in trained.summary.get("usage", {}).items()}
    for table, pin in training_set.summary.get("pins", {}).items():
        tags[f"data.{table}"] = f"{pin['uri']}@{pin['version']}"
    return {f"airflow_ml.{name}": value for name, value in tags.items()}


def _users_code(ctx: StageContext) -> str:
    """Version of all code behind the model, whichever stage calls it: build, label, fit and builder."""
    from airflow_ml.stages.runner import STAGES, stage_of

    return code_version(point for name in STAGES for point in stage_of(name).entry_points(ctx.model))


STAGE = Register()
