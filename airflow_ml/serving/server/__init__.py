"""The local model server: a stand-in for ``tensorflow_model_server``.

Where Google's binary is not installed, this process speaks its protocol for one machine: gRPC (Predict, Classify,
Regress, MultiInference, GetModelMetadata, GetModelStatus, HandleReloadConfigRequest) and REST (predict in rows and
columns, classify, regress, status, metadata), versions and labels, all version policies, a polled config file, warm-up,
TLS for gRPC, Prometheus metrics, with the flags, status codes and messages of the real one. It is not TF Serving:
models are SavedModels on a local disk (no TFLite, no TF Text, no buckets), there is no
request log and no profiler, and Python stands between request and graph. Where the binary is on PATH, :func:`command`
prefers it, with the same flags.
"""

from airflow_ml.serving.server.launch import base_flags, command, is_real

__all__ = ["base_flags", "command", "is_real"]
