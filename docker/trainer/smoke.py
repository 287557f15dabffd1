"""Whether a trainer image can train: torch and Horovod work together, and the pod's entry point needs no Airflow."""

import importlib
import importlib.metadata
import sys

import horovod.torch as hvd
import torch

for name in ("airflow_ml.stages.pod", "airflow_ml.stages.train", "airflow_ml.training.agent"):
    importlib.import_module(name)
hvd.init()
device = "cuda" if torch.cuda.is_available() else "cpu"
total = hvd.allreduce(torch.ones(2, device=device), op=hvd.Sum)
assert total.tolist() == [float(hvd.size())] * 2, total
assert hvd.gloo_built(), "Horovod was built without Gloo"
# On a machine without a GPU NCCL cannot be tried; that it is there can be seen.
assert device == "cpu" or hvd.nccl_built(), "Horovod was built without NCCL"
assert "airflow" not in sys.modules, "the trainer imports Airflow"
versions = {name: importlib.metadata.version(name) for name in ("airflow-ml", "torch", "horovod")}
print(f"trainer works: {versions}, on {device}, NCCL {'built in' if hvd.nccl_built() else 'not built in'}")
