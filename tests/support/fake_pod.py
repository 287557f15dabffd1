"""Stands in for ``python -m airflow_ml.stages.pod`` in tests of a job's life: does what the request's params say.

{"do": "succeed" | "fail" | "exit" | "sleep" | "eat", "pod": index of the pod that does it; the others sleep}
Pod 0 is the one that runs the request: where a coordinator does, the first that trains is pod 1.
{"stand_in": folder of the result}: the steps of a training, without its imports
{"training": {"worse": 0 | 1}}: a trial of a search, which reports and ends, or reports worse and does not end
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from fake_result import result_of


def train(folder):
    """Four checkpoints, beginning after those that are there, and a result that is written once."""
    checkpoints = folder / "state" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, 5):
        path = checkpoints / f"epoch-{epoch:05d}.pt"
        if not path.exists():
            time.sleep(1.5)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(str(epoch))
            temporary.rename(path)
    time.sleep(1)
    result = folder / "result.json"
    if not result.exists():
        with (folder / "finished").open("a") as finished:
            finished.write(f"{os.uname().nodename}\n")
        result.with_suffix(".new").write_text(json.dumps(result_of(request, result)))
        result.with_suffix(".new").rename(result)


signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
request = json.loads(Path("/etc/airflow-ml/request/request.json").read_text())
params = request["params"]
facts = {}
# In an MPIJob a pod has no index of a Job.
told = os.environ.get("AIRFLOW_ML_INDEX") or os.environ["JOB_COMPLETION_INDEX"]
index = 0 if told == "coordinator" else int(told) + ("AIRFLOW_ML_INDEX" in os.environ)
folder = Path(os.environ["AIRFLOW_ML_FOLDER"])
action = params.get("do", "succeed") if index == params.get("pod", 0) else "sleep"
for line in params.get("lines", []):
    print(line, flush=True)
print(f"INFO pod {index} doing {action}", flush=True)
if action == "sleep":
    time.sleep(params.get("seconds", 600))
    action = "succeed"
if index == 0 and "stand_in" in params:
    train(Path(params["stand_in"]))
if action == "eat":
    eaten = bytearray(512 << 20)
    for at in range(0, len(eaten), 4096):
        eaten[at] = 1
if action == "exit":
    print("the last words", flush=True)
    os._exit(params["code"])
if "worse" in params.get("training", {}):
    worse = params["training"]["worse"]
    for epoch in range(1, 4 + 600 * worse):
        print(f"INFO report {json.dumps({'epoch': epoch, 'validation_loss': 0.5 + worse})}", flush=True)
        time.sleep(1)
    facts["metrics"] = {"best_validation_loss": 0.5}
answer = folder / ".response"
if action == "fail":
    answer.write_text(json.dumps({"error": params["error"], "what": "no good", "where": "row 3", "remedy": "mend it"}))
else:
    shown = {name: os.environ.get(name) for name in params.get("show", [])}
    answer.write_text(json.dumps(result_of(request, folder / "result.json", summary=shown, **facts)))
answer.rename(folder / "response.json")
sys.exit(1 if action == "fail" else 0)
