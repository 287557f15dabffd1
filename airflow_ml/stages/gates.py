"""Gates: may the model be released? Judged on its evaluation and on what a real model server does with it.

A model that fails is a normal result: the stage succeeds with the verdict ``rejected``. A server that cannot load
the model is a closed gate, not an error of the stage. A server process is started only when a gate asks for one.
"""

import math
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.lifecycle.evaluation import Evaluation
from airflow_ml.lifecycle.gates import Servability, judge, needs_server
from airflow_ml.stages._files import file_of
from airflow_ml.stages._gate_page import gate_page
from airflow_ml.stages.base import TRAINING, Outcome, Stage
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import verify, write_atomically

_LATENCY_REQUESTS = 500


class Gates(Stage):
    """File ``gate_report``, report ``gates``; summary ``verdict`` and ``reasons``."""

    name = "gates"
    components = ("tensorflow-cpu", "grpcio")
    params = TRAINING

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """The thresholds, and by hash what they are applied to."""
        return {
            "gates": [gate.model_dump(mode="json") for gate in ctx.model.gates],
            "evaluation": file_of(ctx.upstream("evaluate"), "evaluation").sha256,
            "saved_model": file_of(ctx.upstream("export"), "saved_model").sha256,
            "golden": file_of(ctx.upstream("export"), "golden").sha256,
            "training": ctx.upstream("train").fingerprint,
        }

    def run(self, ctx: StageContext) -> Outcome:
        """Ask a server if a gate needs it, and judge."""
        exported = ctx.upstream("export")
        pinned, saved_model = file_of(ctx.upstream("evaluate"), "evaluation"), file_of(exported, "saved_model")
        golden = file_of(exported, "golden")
        evaluation = Evaluation.model_validate_json(verify(pinned.uri, pinned.sha256).read_bytes())
        servability = None
        if needs_server(ctx.model.gates):
            folder, requests = verify(saved_model.uri, saved_model.sha256), verify(golden.uri, golden.sha256)
            servability = _serve(ctx, folder, requests)
        report = judge(
            ctx.model.gates,
            evaluation,
            servability,
            model=ctx.model.name,
            evaluation_sha256=pinned.sha256,
            saved_model_sha256=saved_model.sha256,
            training_fingerprint=ctx.upstream("train").fingerprint,
        )
        for result in report.gates:
            log.info("%s %s: %s", "open  " if result.open else "CLOSED", result.gate, result.reason)
        write_atomically(ctx.files / "gate_report.json", report.model_dump_json(indent=2))
        write_atomically(ctx.files / "gates.html", gate_page(report, str(ctx.request.window or "")))
        measured = servability.model_dump(exclude={"error", "golden_rows", "requests"}) if servability else {}
        return Outcome(
            outputs={"gate_report": ctx.pin(ctx.files / "gate_report.json", "application/json")},
            reports={"gates": ctx.pin(ctx.files / "gates.html", "text/html")},
            metrics=measured,
            summary={"verdict": report.verdict, "reasons": list(report.reasons), "champion": report.champion},
            rows=evaluation.rows,
        )


def _serve(ctx: StageContext, saved_model: Path, golden: Path) -> Servability:
    """Load the model in a server process and ask it the golden requests, over both protocols."""
    from airflow_ml.serving.golden import read_golden
    from airflow_ml.serving.probe import measure_latency, probe
    from airflow_ml.serving.sandbox import model_server

    requests = read_golden(golden)
    rows = sum(len(request.probability) for request in requests)
    name = ctx.model.name
    try:
        with ctx.timed("server"), model_server(saved_model, model=name) as server:
            differences: dict[str, float | None] = {}
            for protocol in ("grpc", "rest"):
                with server.connect(protocol) as client, ctx.timed(f"golden requests over {protocol}"):
                    # How far is too far is the gate's business; here only what is not an answer at all is a failure.
                    found = probe(client, requests, name, tolerance=math.inf)
                if not found.ok:
                    return Servability(error=f"over {protocol}: {'; '.join(found.failures)}", golden_rows=rows)
                differences[protocol] = found.max_abs_diff
            with server.connect() as client, ctx.timed("latency"):
                latency = measure_latency(client, requests, name, requests=_LATENCY_REQUESTS)
    except ServingError as error:
        return Servability(error=str(error), golden_rows=rows)
    return Servability(
        max_abs_diff_grpc=differences["grpc"],
        max_abs_diff_rest=differences["rest"],
        golden_rows=rows,
        p50_latency_ms=latency.p50_ms,
        p99_latency_ms=latency.p99_ms,
        requests=latency.requests,
    )


STAGE = Gates()
