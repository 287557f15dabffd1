"""What of a result travels through Airflow: a small XCom, and a sentence for the run."""

import json
from typing import Any

from airflow_ml.lifecycle.requests import JobResult

NOTE = "airflow_ml_note"
"""XCom key of the sentence that becomes the DAG run's note (see `airflow_ml.ui.notes`)."""

_LARGEST_FACT = 1500
"""Characters of one summary entry; longer ones are read from the result."""


def to_xcom(result: JobResult, request: str) -> dict[str, Any]:
    """Where the result is, and the facts that later tasks and people look at."""
    facts = {
        name: value for name, value in result.summary.items() if len(json.dumps(value, default=str)) <= _LARGEST_FACT
    }
    return {
        "stage": result.stage,
        "model": result.model,
        "uri": result.uri,
        "fingerprint": result.fingerprint,
        "window": result.window.model_dump(mode="json") if result.window else None,
        "rows": result.rows,
        "metrics": result.metrics,
        "summary": json.loads(json.dumps(facts, default=str)),
        "reports": sorted(result.reports),
        "reused": result.reused,
        "wall_s": result.wall_s,
        "request": request,
    }


def note_of(result: JobResult) -> str | None:
    """The verdict or decision of a stage that makes one, with its reasons."""
    word = result.summary.get("verdict") or result.summary.get("decision")
    if not isinstance(word, str):
        return None
    reasons = [str(reason) for reason in result.summary.get("reasons", ())]
    return f"{result.model}: {word}" + ("".join(f"\n- {reason}" for reason in reasons))
