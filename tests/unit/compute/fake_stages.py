"""Stands in for ``python -m airflow_ml.stages`` in tests of the compute: does what the request's params say.

    {"do": "succeed" | "fail" | "exit" | "sleep" | "family", ...}

A stage that is run again and again has a list of ``summaries``, one a run; the last one stays.

More comes from ``<base>/fake.json``: stage to params, for stages that an operator runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))
from fake_result import result_of

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("child", flush=True)
time.sleep(600)
"""

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
"""


def main(request_path: str, response_path: str) -> int:
    request = json.loads(Path(request_path).read_text())
    params = request["params"]
    script = Path(request["platform"]["base"]) / "fake.json"
    if script.exists():
        params = params | json.loads(script.read_text()).get(request["stage"], {})
    action = params.get("do", "succeed")
    print("\n".join([*params.get("first", []), f"INFO doing {action}"]), flush=True)
    if action == "family":
        # One that ignores SIGTERM, one also in a session of its own, and one there whose parent is gone.
        subprocess.Popen([sys.executable, "-c", STUBBORN, params["tag"]])
        subprocess.Popen([sys.executable, "-c", STUBBORN, params["tag"]], start_new_session=True)
        subprocess.run([sys.executable, "-c", PARENT, STUBBORN, params["tag"]], check=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(params["ready"]).write_text("ready")
        action = params.get("then", "sleep")
    if action == "sleep":
        time.sleep(params.get("seconds", 600))
        action = "succeed"
    if action == "exit":
        os._exit(params["code"])
    if action == "fail":
        response = {"error": params["error"], "what": "no good", "where": "row 3", "remedy": "mend it"}
        if "reports" in params:
            response["reports"] = params["reports"]
        Path(response_path).write_text(json.dumps(response))
        return 1
    for name in params.get("tell", []):
        # What careless user code may do; whoever shows the log has to mask it.
        print(f"WARNING the {name.lower()} has {len(os.environ[name])} characters: {os.environ[name]}", flush=True)
    for line in params.get("lines", []):
        print(line, flush=True)
    if "summaries" in params:
        runs = Path(request["platform"]["base"]) / f"runs of {request['stage']}"
        with runs.open("a") as file:
            file.write(".")
        params["summary"] = params["summaries"][: runs.stat().st_size][-1]
    names = {name: os.environ.get(name) for name in params.get("show", [])}
    lengths = {name: len(os.environ[name]) for name in params.get("count", [])}
    more = {
        "window": request["window"],
        "metrics": params.get("metrics", {}),
        "summary": params.get("summary", {}) | {"environment": names, "characters": lengths},
        "reports": params.get("reports", {}),
    }
    result = result_of(request, Path(response_path).with_name("result.json"), **more)
    Path(response_path).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
