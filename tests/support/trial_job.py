"""A job that trains nothing: reports and a result by its parameters, for a search that only looks at those.

python -m tests.support.trial_job REQUEST.json RESPONSE.json
"""

import json
import os
import sys
import time
from pathlib import Path


def main(request_path: Path, response_path: Path) -> None:
    request = json.loads(request_path.read_text())
    params, number = request["params"]["training"], request["coordinates"]["map_index"]
    Path(os.environ["TRIALS"], f"{number}-{os.getpid()}").touch()
    if "broken" in params:
        answer({"error": "SpecError", "what": "there is no such parameter", "where": "", "remedy": ""}, response_path)
        return
    if "sleep_s" in params:
        time.sleep(0.2)
    print(f"INFO MLflow run run-{number}", flush=True)
    worse = params.get("worse", 0)
    loss = params.get("learning_rate", 0.5) + worse
    for epoch in range(1, 31 if worse else 3):
        print(f"INFO report {json.dumps({'epoch': epoch, 'validation_loss': loss + 1 / epoch})}", flush=True)
        time.sleep(0.1 * worse)
    result = {"stage": "train", "model": "small", "fingerprint": "f", "spec_hash": "s", "code_version": "1"}
    result["metrics"] = {"best_validation_loss": loss}
    result["summary"] = {"mlflow_run_id": f"run-{number}", "usage": {"gpu_hours": 0.4}}
    answer(result, response_path)


def answer(response: dict, path: Path) -> None:
    path.with_suffix(".new").write_text(json.dumps(response))
    path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
