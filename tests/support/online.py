"""A gateway as a real process before a real model server, with a release record that a test may change."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from airflow_ml import Features, Model, Online, Platform, Serving
from airflow_ml.lake import LakeTable
from airflow_ml.serving.deployment import ModelConfigFile, publish
from tests.support.models import small_model

ROOT = Path(__file__).resolve().parents[2]
NAME = "small"
SIGNATURE = {"carrier": "string", "hour": "int64", "distance": "float32", "wind": "float32"}

_READY = re.compile(r"ready: grpc (\S+) rest (\S+)")


def _online(**promises: Any) -> Model:
    features = Features(
        build="small.features:build",
        entity="id",
        event_time="at",
        categorical=("carrier", "hour"),
        numeric=("distance", "wind"),
    )
    return small_model(features=features, serving=Serving(online=Online(**promises)))


model = _online(deadline_ms=2000)
"""Patient, so that a busy machine makes no test fail."""

hasty = _online(deadline_ms=300, fallback=None)
modest = _online(deadline_ms=300, fallback=0.25, log_inputs=False)


@dataclass
class RunningGateway:
    """A gateway that answers."""

    process: subprocess.Popen[bytes]
    rest: str
    grpc: str
    log: Path

    def ask(self, *rows: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send rows."""
        return requests.post(
            f"{self.rest}/v1/models/{NAME}:predict", json={"instances": list(rows)}, headers=headers, timeout=30
        )

    def routing(self) -> dict[str, Any]:
        """That holds."""
        found: dict[str, Any] = requests.get(f"{self.rest}/v1/models/{NAME}", timeout=30).json()["routing"]
        return found

    def metrics(self) -> dict[str, float]:
        """Series by name with labels."""
        text = requests.get(f"{self.rest}/metrics", timeout=30).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("airflow_ml_gateway_"): float(value) for name, _, value in lines}

    def counted(self, name: str, **labels: str) -> float:
        """Sum of the series with these labels."""
        return sum(
            value
            for series, value in self.metrics().items()
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items())
        )


@contextmanager
def gateway(platform: Platform, which: str = "model", grpc_port: int = 0) -> Iterator[RunningGateway]:
    """Run ``airflow-ml gateway``; its end is SIGTERM, unless it ended before.

    Args:
        platform: Base and model server.
        which: Model of this module, or of another: ``package.module:attribute``.
        grpc_port: To listen on; 0 takes a free one.
    """
    log = Path(platform.base) / f"gateway-{time.monotonic_ns()}.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_ML_BASE": platform.base,
        "AIRFLOW_ML_SERVING_FOLDER": platform.serving_folder,
        "AIRFLOW_ML_SERVING_GRPC": platform.serving.grpc,
        "AIRFLOW_ML_SERVING_CONN_ID": platform.serving.conn_id or "",
    }
    command = [sys.executable, "-m", "airflow_ml.cli", "gateway", which if ":" in which else f"{__name__}:{which}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port=0", f"--grpc-port={grpc_port}"], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    try:
        grpc, rest = _ready(process, log)
        yield RunningGateway(process, f"http://{rest}", f"grpc://{grpc}", log)
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        match = _READY.search(log.read_text(errors="replace"))
        if match:
            return match[1], match[2]
        time.sleep(0.02)
    raise RuntimeError(f"the gateway is not ready (status {process.poll()}): {log.read_text(errors='replace')[-3000:]}")


def wait_until(true: Any, seconds: float = 30.0) -> float:
    """Wait for a condition; returns how long it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + seconds, f"not so after {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


def logged(platform: Platform) -> list[dict[str, Any]]:
    """The prediction log in the lake."""
    table = LakeTable(Path(platform.base) / "lake" / NAME / "online")
    return table.read().to_pylist() if table.exists() else []


def serve_versions(folder: Path, saved_models: Mapping[int, Path]) -> None:
    """Publish versions and have the server load all of them."""
    for version, saved_model in saved_models.items():
        publish(saved_model, folder, NAME, version)
    ModelConfigFile(folder).ensure_versions(NAME, saved_models)


def simple_model(folder: Path, kind: str) -> Path:
    """Export a version that looks at nothing.

    Args:
        folder: To write.
        kind: ``sure`` always answers 1, ``nan`` with what is no number, ``slow`` needs a second and a half.
    """
    from airflow_ml.serving.engines import tensorflow

    tf = tensorflow()
    from tensorflow.python.data.experimental.ops.testing import sleep

    specs = {
        name: tf.TensorSpec([None], {"string": tf.string, "int64": tf.int64, "float32": tf.float32}[dtype], name=name)
        for name, dtype in SIGNATURE.items()
    }

    def answer(**columns: Any) -> dict[str, Any]:
        zero = 0.0 * tf.strings.to_number(tf.strings.as_string(columns["hour"] * 0))
        if kind == "nan":
            return {"probability": zero / zero}
        if kind == "slow":
            # Sleeps in the graph: time that costs no processor.
            slept = tf.data.Dataset.from_tensors(0.0).apply(sleep(1_500_000))
            return {"probability": zero + 0.5 + tf.data.experimental.get_single_element(slept)}
        return {"probability": zero + 1.0}

    module = tf.Module()
    module.serve = tf.function(answer, input_signature=None).get_concrete_function(**specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder
