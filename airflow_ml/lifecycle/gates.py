"""The decision whether a model may be released: pure functions over declared thresholds.

A gate is open only when a number is there, finite, computed on enough rows, and on the right side of its threshold.
Whatever else can happen (NaN, a metric nobody computed, an empty slice, a server that did not answer) leaves it closed.
"""

import math
from collections.abc import Iterable, Sequence
from typing import assert_never

from airflow_ml.lifecycle.evaluation import Evaluation, Metric
from airflow_ml.lifecycle.releases import Verdict
from airflow_ml.spec.base import Frozen
from airflow_ml.spec.gates import (
    HIGHER_IS_BETTER,
    LATENCIES,
    AtLeast,
    AtMost,
    BeatsChampion,
    Calibrated,
    EachSlice,
    Gate,
    Servable,
)


class Servability(Frozen):
    """What a real model server did with the model.

    Attributes:
        error: Why it did not load or answer; empty when it did.
        max_abs_diff_grpc: Largest difference of a golden probability over gRPC; None when it was not asked.
        max_abs_diff_rest: The same over REST.
        golden_rows: Golden requests that were compared.
        p50_latency_ms: Median of one-row requests over gRPC.
        p99_latency_ms: 99th percentile.
        requests: One-row requests behind the latencies.
    """

    error: str = ""
    max_abs_diff_grpc: float | None = None
    max_abs_diff_rest: float | None = None
    golden_rows: int = 0
    p50_latency_ms: float | None = None
    p99_latency_ms: float | None = None
    requests: int = 0


class GateResult(Frozen):
    """One gate's decision.

    Attributes:
        gate: As declared, for people: ``at_least(roc_auc, 0.72)``.
        open: Whether the model may pass.
        observed: The number that decided; None when there is none.
        threshold: What it was compared with.
        rows: What it was computed on.
        reason: In words.
    """

    gate: str
    open: bool
    observed: float | None
    threshold: float | None
    rows: int
    reason: str


class GateReport(Frozen):
    """All decisions, bound by hashes to what they were made on. Its own hash binds the release.

    Attributes:
        model: Name.
        verdict: ``passed`` when every gate is open.
        gates: In declared order.
        champion: Version that the model was compared with, or None.
        servability: What the server did, or None when no gate asked.
        evaluation_sha256: Of the evaluation that was judged.
        saved_model_sha256: Of the SavedModel that may be released with this report.
        training_fingerprint: Of the training behind both.
    """

    model: str
    verdict: Verdict
    gates: tuple[GateResult, ...]
    champion: int | None
    servability: Servability | None
    evaluation_sha256: str
    saved_model_sha256: str
    training_fingerprint: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each closed gate."""
        return tuple(f"{gate.gate}: {gate.reason}" for gate in self.gates if not gate.open)


def needs_server(gates: Iterable[Gate]) -> bool:
    """Whether a gate can only be judged after a real server has loaded the model."""
    return any(
        isinstance(gate, Servable) or (isinstance(gate, AtLeast | AtMost) and gate.metric in LATENCIES)
        for gate in gates
    )


def judge(
    gates: Sequence[Gate],
    evaluation: Evaluation,
    servability: Servability | None,
    *,
    model: str,
    evaluation_sha256: str,
    saved_model_sha256: str,
    training_fingerprint: str,
) -> GateReport:
    """Decide every gate.

    Args:
        gates: As declared; without any the verdict is ``rejected``.
        evaluation: The candidate on the test split, and the champion on the same rows.
        servability: What a server did with it, or None.
        model: Name.
        evaluation_sha256: Hash of the evaluation's file.
        saved_model_sha256: Hash of the SavedModel's folder.
        training_fingerprint: Of the training result.
    """
    results = tuple(decide(gate, evaluation, servability) for gate in gates)
    return GateReport(
        model=model,
        verdict="passed" if results and all(result.open for result in results) else "rejected",
        gates=results,
        champion=evaluation.champion.version if evaluation.champion else None,
        servability=servability,
        evaluation_sha256=evaluation_sha256,
        saved_model_sha256=saved_model_sha256,
        training_fingerprint=training_fingerprint,
    )


def decide(gate: Gate, evaluation: Evaluation, servability: Servability | None) -> GateResult:
    """Decide one gate."""
    match gate:
        case AtLeast():
            metric = _metric(gate.metric, evaluation, servability)
            return _compare(_name(gate), metric, gate.threshold, at_least=True, min_rows=gate.min_rows)
        case AtMost():
            metric = _metric(gate.metric, evaluation, servability)
            return _compare(_name(gate), metric, gate.threshold, at_least=False, min_rows=gate.min_rows)
        case Calibrated():
            return _compare(_name(gate), evaluation.ece, gate.max_error, at_least=False, min_rows=gate.min_rows)
        case BeatsChampion():
            return _beats_champion(gate, evaluation)
        case EachSlice():
            return _each_slice(gate, evaluation)
        case Servable():
            return _servable(gate, servability)
        case _:
            assert_never(gate)


def _compare(name: str, metric: Metric | None, threshold: float, *, at_least: bool, min_rows: int) -> GateResult:
    if metric is None:
        return _closed(name, "nobody computed this metric", threshold)
    observed = _finite(metric.value)
    if observed is None:
        why = f": {metric.reason}" if metric.reason else ""
        return _closed(name, f"could not be computed on {metric.rows} rows{why}", threshold, rows=metric.rows)
    if metric.rows < min_rows:
        return _closed(name, f"{metric.rows} rows, fewer than {min_rows}", threshold, observed, metric.rows)
    is_open = observed >= threshold if at_least else observed <= threshold
    sign = (">=" if is_open else "<") if at_least else ("<=" if is_open else ">")
    reason = f"{observed:.6g} {sign} {threshold:.6g} on {metric.rows} rows"
    return GateResult(gate=name, open=is_open, observed=observed, threshold=threshold, rows=metric.rows, reason=reason)


def _beats_champion(gate: BeatsChampion, evaluation: Evaluation) -> GateResult:
    name = _name(gate)
    mine = evaluation.metrics.get(gate.metric)
    if evaluation.champion is None:
        # The first model has nobody to beat, but its own number must exist: it is what the next one has to beat.
        if mine is None or _finite(mine.value) is None:
            return _closed(name, "the metric could not be computed", gate.by)
        if mine.rows < gate.min_rows:
            return _closed(name, f"{mine.rows} rows, fewer than {gate.min_rows}", gate.by, rows=mine.rows)
        return GateResult(
            gate=name,
            open=True,
            observed=None,
            threshold=gate.by,
            rows=mine.rows,
            reason="there is no champion to beat",
        )
    theirs = evaluation.champion.metrics.get(gate.metric)
    if mine is None or theirs is None:
        return _closed(name, "nobody computed this metric for both models", gate.by)
    ours, champions = _finite(mine.value), _finite(theirs.value)
    if ours is None or champions is None:
        why = "; ".join(reason for reason in (mine.reason, theirs.reason) if reason)
        reason = "could not be computed for both models" + (f": {why}" if why else "")
        return _closed(name, reason, gate.by, rows=mine.rows)
    if mine.rows != theirs.rows:
        reason = f"not the same rows: {mine.rows} for the model, {theirs.rows} for the champion"
        return _closed(name, reason, gate.by, rows=mine.rows)
    gain = ours - champions if gate.metric in HIGHER_IS_BETTER else champions - ours
    result = _compare(name, Metric(value=gain, rows=mine.rows), gate.by, at_least=True, min_rows=gate.min_rows)
    versus = f"{gate.metric} {ours:.6g} against {champions:.6g} of champion version {evaluation.champion.version}"
    return result.model_copy(update={"reason": f"{versus}: better by {result.reason}"})


def _each_slice(gate: EachSlice, evaluation: Evaluation) -> GateResult:
    name = _name(gate)
    at_least = gate.metric in HIGHER_IS_BETTER
    slices = [found for found in evaluation.slices if found.column == gate.column]
    if not slices:
        return _closed(name, f"no slice of {gate.column!r} was evaluated", gate.threshold)
    judged = [found for found in slices if found.rows >= gate.min_rows]
    if not judged:
        return _closed(name, f"every slice has fewer than {gate.min_rows} rows", gate.threshold)
    results = [
        (
            found,
            _compare(name, found.metrics.get(gate.metric), gate.threshold, at_least=at_least, min_rows=gate.min_rows),
        )
        for found in judged
    ]
    closed = [(found, result) for found, result in results if not result.open]
    if closed:
        shown = "; ".join(f"{found.value}: {result.reason}" for found, result in closed[:5])
        more = f"; and {len(closed) - 5} more" if len(closed) > 5 else ""
        _, first = closed[0]
        return _closed(name, f"{shown}{more}", gate.threshold, first.observed, first.rows)
    worst = (min if at_least else max)(results, key=lambda pair: pair[1].observed or 0.0)
    return worst[1].model_copy(
        update={"reason": f"worst of {len(judged)} slices is {worst[0].value}: {worst[1].reason}"}
    )


def _servable(gate: Servable, servability: Servability | None) -> GateResult:
    name = _name(gate)
    if servability is None:
        return _closed(name, "no server was asked", gate.tolerance)
    if servability.error:
        return _closed(name, servability.error, gate.tolerance)
    grpc, rest = _finite(servability.max_abs_diff_grpc), _finite(servability.max_abs_diff_rest)
    if grpc is None or rest is None or servability.golden_rows < 1:
        return _closed(name, "the golden requests were not answered over both gRPC and REST", gate.tolerance)
    observed, rows = max(grpc, rest), servability.golden_rows
    if observed > gate.tolerance:
        reason = f"golden answers differ by up to {observed:.3g}, more than {gate.tolerance:.3g}"
        return _closed(name, reason, gate.tolerance, observed, rows)
    if gate.max_p99_latency_ms is not None:
        if servability.requests < 1:
            return _closed(name, "no request was timed, and the latency has a bound", gate.max_p99_latency_ms)
        p99 = _finite(servability.p99_latency_ms)
        if p99 is None or p99 > gate.max_p99_latency_ms:
            shown = "unknown" if p99 is None else f"{p99:.3g} ms"
            reason = f"p99 latency is {shown}, allowed are {gate.max_p99_latency_ms:.3g} ms"
            return _closed(name, reason, gate.max_p99_latency_ms, p99, servability.requests)
    reason = f"{rows} golden answers within {observed:.3g} over gRPC and REST"
    return GateResult(gate=name, open=True, observed=observed, threshold=gate.tolerance, rows=rows, reason=reason)


def _metric(name: str, evaluation: Evaluation, servability: Servability | None) -> Metric | None:
    if name in LATENCIES:
        if servability is None or servability.error:
            return None
        return Metric(value=getattr(servability, name), rows=servability.requests)
    if name == "ece":
        return evaluation.ece
    return evaluation.metrics.get(name)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _closed(
    name: str, reason: str, threshold: float | None, observed: float | None = None, rows: int = 0
) -> GateResult:
    return GateResult(gate=name, open=False, observed=observed, threshold=threshold, rows=rows, reason=reason)


def _name(gate: Gate) -> str:
    match gate:
        case AtLeast() | AtMost():
            return f"{gate.kind}({gate.metric}, {gate.threshold:g})"
        case BeatsChampion():
            return f"beats_champion({gate.metric}, by={gate.by:g})"
        case EachSlice():
            return f"each_slice({gate.column}, {gate.metric}, {gate.threshold:g})"
        case Calibrated():
            return f"calibrated({gate.max_error:g})"
        case Servable():
            return "servable"
