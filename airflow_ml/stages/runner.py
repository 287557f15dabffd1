"""Running a request as a transaction: identify, look for a result, do the work, write the result last."""

import importlib
import importlib.metadata
import json
import logging
import re
import shutil
import time
import uuid
from pathlib import Path

from airflow_ml.lake.table import gone
from airflow_ml.lifecycle.errors import AirflowMLError, BaseError, SpecError
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import FORMAT, JobRequest, JobResult
from airflow_ml.stages.base import Stage
from airflow_ml.stages.code import code_version
from airflow_ml.stages.context import StageContext, result_folder
from airflow_ml.stages.workspace import claim_name, locked, open_base, storage_error, write_atomically

log = logging.getLogger("airflow_ml.stages")

STAGES = (
    "ingest",
    "ingest_outcomes",
    "validate",
    "features",
    "training_set",
    "tune",
    "train",
    "evaluate",
    "export",
    "gates",
    "register",
    "release",
    "rollout",
    "score",
    "feedback",
    "monitor",
    "decide",
)
"""In the order of a model's life. Each is `airflow_ml.stages.<name>`, which holds a `Stage` called ``STAGE``."""


def stage_of(name: str) -> Stage:
    """The stage of this name.

    Raises:
        SpecError: There is none.
    """
    if name not in STAGES:
        raise SpecError(f"there is no stage {name!r}", remedy=f"choose one of {', '.join(STAGES)}")
    stage: Stage = importlib.import_module(f"airflow_ml.stages.{name}").STAGE
    return stage


def read_result(path: Path) -> JobResult | None:
    """The result in a file; None when there is none.

    Raises:
        BaseError: A newer package wrote it, or it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
        if data["format"] > FORMAT:
            raise BaseError(
                f"result of format {data['format']}; this package knows {FORMAT}",
                where=str(path),
                remedy="upgrade airflow-ml",
            )
        return JobResult.model_validate_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise BaseError(
            f"the result is damaged: {type(error).__name__}",
            where=str(path),
            remedy="remove the file; the stage then runs again",
        ) from error


def identify(request: JobRequest, stage: Stage, found: dict[tuple[str, str], JobResult] | None = None) -> StageContext:
    """A context whose identity and fingerprint are set.

    Args:
        request: What is asked.
        stage: Which answers.
        found: Results of earlier stages that this look has come by already (`StageContext.found`).
    """
    ctx = StageContext(request, attempt=uuid.uuid4().hex[:16], found={} if found is None else found)
    ctx.identity = stage.identify(ctx)
    ctx.fingerprint = fingerprint(
        request.model.name, stage.name, code_version(stage.entry_points(request.model)), ctx.identity
    )
    return ctx


def find(request: JobRequest, found: dict[tuple[str, str], JobResult] | None = None) -> JobResult | None:
    """The result that this request would return without work; None when there is none."""
    stage = stage_of(request.stage)
    _require_known(request, stage)
    ctx = identify(request, stage, found)
    result = read_result(ctx.folder / "result.json")
    return result if result is not None and stage.still_true(ctx, result) else None


def execute(request: JobRequest) -> JobResult:
    """Run a request, or return the result that it already has.

    Raises:
        AirflowMLError: With what happened, where, and the remedy.
    """
    began = time.perf_counter()
    if request.format > FORMAT:
        raise BaseError(
            f"request of format {request.format}; this package knows {FORMAT}",
            remedy="upgrade airflow-ml where jobs run",
        )
    base = Path(request.platform.base)
    open_base(base)
    claim_name(base, request.model)
    stage = stage_of(request.stage)
    _require_known(request, stage)
    ctx = identify(request, stage)
    log.info("stage %s of %s%s, fingerprint %s", stage.name, request.model.name, _of(request), ctx.fingerprint[:12])
    # Two tries of one task can overlap for seconds: the second waits here, and finds the first one's result.
    with locked(
        ctx.folder / "lock", waiting=lambda: log.info("another process is at the same request; waiting for it")
    ):
        found = read_result(ctx.folder / "result.json")
        if found is not None and stage.still_true(ctx, found):
            log.info("done before, with the same inputs: %s", found.uri)
            return _renewed(found, request).model_copy(update={"reused": True})
        stage.require_settled(ctx)
        try:
            outcome = stage.run(ctx)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                lost = _committed(error, base)
                if lost is None:
                    raise
                raise gone(lost) from error
            raise storage_error(error, Path(error.filename or ctx.folder)) from error
        stage.require_settled(ctx)
        result = JobResult(
            stage=stage.name,
            model=request.model.name,
            fingerprint=ctx.fingerprint,
            spec_hash=request.spec_hash,
            code_version=code_version(stage.entry_points(request.model)),
            window=request.window,
            identity=ctx.identity,
            outputs=outcome.outputs,
            metrics=outcome.metrics,
            reports=outcome.reports,
            summary=outcome.summary,
            timings=ctx.timings,
            wall_s=round(time.perf_counter() - began, 3),
            rows=outcome.rows,
            components=_versions(stage.components),
            uri=str(ctx.folder / "result.json"),
        )
        write_atomically(ctx.folder / "result.json", result.model_dump_json(indent=2))
        _clean(ctx)
    log.info("stage %s: %d rows in %.1f s", stage.name, result.rows, result.wall_s)
    return result


def _require_known(request: JobRequest, stage: Stage) -> None:
    """Refuse a parameter that the stage does not take: left aside, ``vesion`` would score with the champion."""
    unknown = sorted(set(request.params) - set(stage.params))
    if unknown:
        raise SpecError(
            f"unknown parameters: {', '.join(unknown)}",
            where=f"stage {stage.name}",
            remedy=f"it takes: {', '.join(stage.params)}" if stage.params else "it takes none",
        )


def _committed(error: FileNotFoundError, base: Path) -> Path | None:
    """The committed file that an error is about; other files are the user's code's to miss.

    Arrow and Delta name it in the middle of their texts, below the base as it is or as its links lead to it.
    """
    for folder in (base, base.resolve()):
        found = re.search(re.escape(f"{folder}/lake/") + r"[^'\n]*?\.parquet", str(error))
        if found:
            return Path(found[0])
    return None


def _renewed(found: JobResult, request: JobRequest) -> JobResult:
    """The result, bound to today's declaration.

    Its fingerprint says that nothing that decides it has changed; later stages of the run compare whole declarations,
    and must not refuse it for a word in the description.
    """
    if found.spec_hash == request.spec_hash:
        return found
    renewed = found.model_copy(update={"spec_hash": request.spec_hash})
    write_atomically(Path(found.uri), renewed.model_dump_json(indent=2))
    return renewed


def _clean(ctx: StageContext) -> None:
    """Remove what attempts that died left in this result's folder."""
    for path in ctx.folder.glob("attempt-*"):
        if path.name != f"attempt-{ctx.attempt}":
            shutil.rmtree(path, ignore_errors=True)


def _of(request: JobRequest) -> str:
    return f", {request.window}" if request.window else ""


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in ("airflow-ml", *distributions):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


__all__ = ["STAGES", "AirflowMLError", "execute", "find", "identify", "read_result", "result_folder", "stage_of"]
