"""Recorded requests that a version answers before it is available, so that nobody waits for TensorFlow's first runs.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow_ml.serving.engines import graph_runtime
from airflow_ml.serving.protos.messages import PredictionLog
from airflow_ml.serving.server.metrics import Metrics
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import Code, StatusError, invalid, of_exception

_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST = 1000


def warm_up(servable: Servable, path: Path, metrics: Metrics) -> None:
    """Run the records of a version's folder, if there are any.

    Raises:
        StatusError: a record cannot be read or answered, or there are more than a thousand: the version is not loaded.
    """
    file = path / _FILE
    if not file.is_file():
        return
    began = time.perf_counter()
    try:
        _replay(servable, file)
    except Exception as error:
        status = of_exception(error)
        metrics.warmup.observe((time.perf_counter() - began) * 1e6, str(path), status.code.name)
        raise status from error
    metrics.warmup.observe((time.perf_counter() - began) * 1e6, str(path), Code.OK.name)


def _replay(servable: Servable, file: Path) -> None:
    # the iterator is deprecated in favour of tf.data, which would start thread pools for a few records
    for count, record in enumerate(graph_runtime().records(str(file)), start=1):
        try:
            log = PredictionLog.FromString(record)
        except Exception as error:
            raise invalid(f"Failed to parse warmup record from {file}") from error
        _answer(servable, log)
        if count > _MOST:
            raise invalid(f"Number of warmup records exceeds the maximum ({_MOST}) at {file}")


def _answer(servable: Servable, log: Any) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        servable.predict(log.predict_log.request)
    elif kind == "classify_log":
        servable.classify(log.classify_log.request)
    elif kind == "regress_log":
        servable.regress(log.regress_log.request)
    elif kind == "multi_inference_log":
        servable.multi_inference(log.multi_inference_log.request)
    else:
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
