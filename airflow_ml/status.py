"""What a person asks first about a model: its champion, its challengers, its newest partitions and verdicts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import AirflowMLError, BaseError
from airflow_ml.spec import Model, Platform

TABLES = ("raw", "outcomes", "features", "predictions", "feedback", "decisions", "online")
"""Without ``validated``, which has fences and no rows: what it says is the verdict of `validate`."""
_VERSIONS = 5
"""Whose training is told; `--json` tells of all."""
_VERDICTS = ("validate", "gates", "release", "rollout", "monitor", "decide")


def model_status(model: Model, platform: Platform) -> dict[str, Any]:
    """Everything that `airflow-ml status` shows, as JSON values.

    Args:
        model: The declaration.
        platform: Where it lives.

    Returns:
        ``champions`` (history, newest first), ``challengers``, ``rollout`` (the open or the last one, or None),
        ``usage`` by version, ``partitions`` by table, ``verdicts`` by stage.
    """
    from airflow_ml.registry import champions

    base = Path(platform.base)
    require_readable(base)
    return {
        "model": model.name,
        "base": platform.base,
        "champions": [entry.model_dump(mode="json") for entry in champions.history(platform, model.name)],
        "challengers": champions.challengers(platform, model.name),
        "rollout": _rollout(platform, model.name),
        "usage": {str(each.version): each.usage for each in champions.releases(platform, model.name) if each.usage},
        "partitions": dict(_partitions(base / "lake" / model.name)),
        "verdicts": dict(_verdicts(base / "runs" / model.name)),
    }


def _rollout(platform: Platform, model_name: str) -> dict[str, Any] | None:
    from airflow_ml.registry import rollouts

    found = rollouts.current(platform, model_name)
    if found is None:
        return None
    newest = found.judgements[-1] if found.judgements else None
    return {
        "open": found.open,
        "version": found.version,
        "state": str(found.state),
        "share": found.share,
        "steps": list(found.plan.steps),
        "stable": found.back_to,
        "began": found.began.isoformat(timespec="seconds"),
        "since": found.since.isoformat(timespec="seconds"),
        "verdict": None if newest is None else str(newest.verdict),
        "verdict_reason": "" if newest is None else newest.reason,
        "reason": found.reason,
        "by": found.by,
        "why": found.why,
    }


def require_readable(base: Path) -> None:
    """Refuse what is no base of this package; one that is not there yet has a status, too, and is not made.

    Raises:
        BaseError: It is no folder, cannot be read, or was written by a newer package.
    """
    from airflow_ml.stages.workspace import check_base

    try:
        if base.exists() and not base.is_dir():
            raise BaseError("not a folder", where=str(base), remedy="choose another base: AIRFLOW_ML_BASE=/a/folder")
        check_base(base)
    except OSError as error:
        raise BaseError(
            f"cannot read: {error.strerror or error}",
            where=str(base),
            remedy="give this user read permission, or choose another base",
        ) from error


def _partitions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in TABLES:
        table = LakeTable(folder / name)
        if not table.exists():
            continue
        try:
            snapshot = table.snapshot()
        except AirflowMLError:
            continue
        days = list(snapshot.rows)
        yield (
            name,
            {
                "version": snapshot.version,
                "partitions": len(days),
                "first": days[0].isoformat() if days else None,
                "last": days[-1].isoformat() if days else None,
                "rows": sum(snapshot.rows.values()),
            },
        )


def _verdicts(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from airflow_ml.stages.runner import read_result

    for stage in _VERDICTS:
        results = sorted((folder / stage).glob("*/result.json"), key=lambda path: path.stat().st_mtime)
        if not results:
            continue
        try:
            found = read_result(results[-1])
        except BaseError as error:
            # One that cannot be read does not hide the others.
            yield stage, {"problem": f"{error.what}; {error.remedy}", "window": None, "result": str(results[-1])}
            continue
        if found is not None:
            # `decide` calls the window that it lets train `window`, too: the verdict's own is the one that was judged.
            told = {"training_window" if key == "window" else key: fact for key, fact in found.summary.items()}
            window = None if found.window is None else found.window.model_dump(mode="json")
            yield stage, {**told, "window": window, "result": found.uri}


def _used(version: str, usage: dict[str, Any]) -> str:
    cost = f", {usage['cost']:.4g} {usage['currency']}" if usage["cost"] else ""
    return f"  version {version}: {usage['gpu_hours']:.4g} GPU-hours, {usage['cpu_hours']:.4g} CPU-hours{cost}"


def render(status: dict[str, Any]) -> str:
    """The status as lines for a terminal."""
    lines = [f"{status['model']}  ({status['base']})", "", "champions, newest first"]
    champions = [f"  {json.dumps(entry)}" for entry in status["champions"]]
    lines += champions or ["  none yet: train one, or trigger its *_training DAG"]
    lines += ["", f"challengers: {', '.join(map(str, status['challengers'])) or 'none'}"]
    if status["usage"]:
        lines += ["", "what trainings took, newest first"]
        lines += [_used(version, usage) for version, usage in list(status["usage"].items())[::-1]][:_VERSIONS]
    lines += ["", *_rollout_lines(status["rollout"]), "", "tables"]
    for name, found in status["partitions"].items():
        lines.append(
            f"  {name:12} version {found['version']:4}  {found['first']} .. {found['last']}"
            f"  {found['partitions']} partitions, {found['rows']} rows"
        )
    lines += ["", "latest verdicts"]
    for stage, found in status["verdicts"].items():
        window = found["window"] or {}
        facts = {key: value for key, value in found.items() if key not in {"window", "result"}}
        lines.append(f"  {stage:10} {window.get('from', '')} .. {window.get('to', '')}  {json.dumps(facts)[:300]}")
    return "\n".join(lines)


def _rollout_lines(rollout: dict[str, Any] | None) -> Iterator[str]:
    if rollout is None:
        yield "rollout: none yet"
        return
    yield (
        f"rollout{'' if rollout['open'] else ' (ended)'}: version {rollout['version']} {rollout['state']}, "
        f"{rollout['share']:.0%} of the traffic, stable {rollout['stable'] or 'none'}, since {rollout['since']}"
    )
    for name in ("by", "why", "reason"):
        if rollout[name]:
            yield f"  {name}: {rollout[name]}"
    if rollout["verdict"]:
        yield f"  {rollout['verdict']}: {rollout['verdict_reason']}"
