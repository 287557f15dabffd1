"""The local model server: a stand-in for ``tensorflow_model_server``.

Where Google's binary is not installed, this process speaks enough of its protocol for one machine: gRPC (Predict,
GetModelMetadata, GetModelStatus, HandleReloadConfigRequest) and REST (predict, status, metadata), version policies,
labels, a polled config file, warm-up. It is not TF Serving: no Classify or Regress, no batching, no metrics, and Python
between request and graph. Where the binary is on PATH, :func:`command` prefers it, with the same flags.
"""

from airflow_ml.serving.server.launch import base_flags, command, is_real

__all__ = ["base_flags", "command", "is_real"]
