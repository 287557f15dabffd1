"""torch → SavedModel: raw columns in, probability out. Importing it loads neither torch nor TensorFlow."""

from airflow_ml.serving.export.exporter import ExportedSignature, SignatureTensor, export_saved_model
from airflow_ml.serving.export.network import torch_probability
from airflow_ml.serving.export.parity import Parity, check_parity, parity

__all__ = [
    "ExportedSignature",
    "Parity",
    "SignatureTensor",
    "check_parity",
    "export_saved_model",
    "parity",
    "torch_probability",
]
