"""A TensorFlow Lite model in this process, with the calls of a `SavedModel`.

Source: https://www.tensorflow.org/lite/guide/signatures
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.protos.messages import SignatureDef
from airflow_ml.serving.protos.tensors import number_of
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE, Signature, TensorInfo

if TYPE_CHECKING:
    import numpy as np

#: Beside or in place of ``saved_model.pb``.
FILE = "model.tflite"

_METHOD = "tensorflow/serving/predict"


class TfLiteModel:
    """A loaded model. Safe to use from several threads, which wait for each other: it has one interpreter.

    Args:
        path: Folder with ``model.tflite``.

    Attributes:
        signatures: Entry points by name. A model without any has one of all its inputs and outputs.
        signature_defs: The same as serialised ``SignatureDef``, for the metadata API.

    Raises:
        ServingError: TensorFlow cannot load it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._interpreter = tensorflow().lite.Interpreter(model_path=str(self.path / FILE))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ServingError(
                f"TensorFlow Lite cannot load the model: {error}", str(path), "convert it again"
            ) from error
        self._runners = {name: self._runner(name) for name in self._interpreter.get_signature_list()}
        if not self._runners:
            self._runners = {DEFAULT_SIGNATURE: _Whole(self._interpreter)}
        self.signatures = {
            name: Signature(name, _METHOD, _infos(runner.get_input_details()), _infos(runner.get_output_details()))
            for name, runner in self._runners.items()
        }
        self.signature_defs = {name: _definition(signature) for name, signature in self.signatures.items()}

    def _runner(self, name: str) -> Any:
        return self._interpreter.get_signature_runner(name)

    def run(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        inline: bool = False,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `SavedModel.run`; `inline` means nothing here."""
        with self._lock:
            found = self._runners[signature](**inputs)
        wanted = {name: found[name] for name in outputs or self.signatures[signature].outputs}
        return {name: array.astype(object) if array.dtype.kind == "S" else array for name, array in wanted.items()}

    def close(self) -> None:
        """Free it. Calls in flight end first."""
        with self._lock:
            self._runners.clear()
            del self._interpreter


class _Whole:
    """All of a model's inputs and outputs as an entry point, for models that declare none."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter

    def get_input_details(self) -> dict[str, Any]:
        return {detail["name"].removesuffix(":0"): detail for detail in self._interpreter.get_input_details()}

    def get_output_details(self) -> dict[str, Any]:
        return {detail["name"].removesuffix(":0"): detail for detail in self._interpreter.get_output_details()}

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        details = self.get_input_details()
        for name, array in inputs.items():
            self._interpreter.resize_tensor_input(details[name]["index"], array.shape)
        self._interpreter.allocate_tensors()
        for name, array in inputs.items():
            self._interpreter.set_tensor(details[name]["index"], array)
        self._interpreter.invoke()
        return {
            name: self._interpreter.get_tensor(detail["index"]) for name, detail in self.get_output_details().items()
        }


def _infos(details: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(name, detail["name"], number_of(detail["dtype"]), tuple(map(int, detail["shape_signature"])))
        for name, detail in sorted(details.items())
    }


def _definition(signature: Signature) -> bytes:
    definition = SignatureDef(method_name=signature.method)
    for infos, into in ((signature.inputs, definition.inputs), (signature.outputs, definition.outputs)):
        for name, info in infos.items():
            into[name].name = info.tensor
            into[name].dtype = info.data_type
            for size in info.shape or ():
                into[name].tensor_shape.dim.add(size=size)
    return bytes(definition.SerializeToString())
