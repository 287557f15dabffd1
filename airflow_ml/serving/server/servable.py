"""One loaded version: checks a request against the signature as TF Serving does, and runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.engines import graph_runtime
from airflow_ml.serving.protos.messages import PredictionLog
from airflow_ml.serving.protos.tensors import numpy_type, to_numpy, type_name
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE, SavedModel, Signature, TensorInfo
from airflow_ml.serving.server.status import Code, StatusError, invalid, of_exception

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


class Servable:
    """A version in memory.

    Args:
        path: The version's folder.
        warmup: Run the recorded requests first; one that fails fails the load.

    Raises:
        ServingError: TensorFlow cannot load it.
        StatusError: a warm-up request failed.
    """

    def __init__(self, path: Path, warmup: bool = True) -> None:
        self._model = SavedModel(path)
        self.signature_defs = self._model.signature_defs
        if warmup and (path / _WARMUP).is_file():
            try:
                self._warm_up(path / _WARMUP)
            except BaseException:
                self.close()
                raise

    def signature(self, name: str = "") -> Signature:
        """The signature of that name, ``serving_default`` if empty.

        Raises:
            StatusError: there is none.
        """
        key = name or DEFAULT_SIGNATURE
        if key not in self._model.signatures:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        return self._model.signatures[key]

    def predict(self, protos: Mapping[str, Any], signature: str = "", outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Answer a request.

        Args:
            protos: Input name → ``TensorProto``.
            signature: Signature name; empty for the default.
            outputs: Names of the wanted outputs; all if empty.

        Raises:
            StatusError: the request does not fit the signature, or TensorFlow failed on it.
        """
        definition = self.signature(signature)
        _check_names(definition, protos)
        _check_outputs(definition, outputs)
        inputs = {
            name: _array(index, info, protos[name]) for index, (name, info) in enumerate(definition.inputs.items())
        }
        try:
            return self._model.run(inputs, definition.name, outputs)
        except Exception as error:
            raise of_exception(error) from error

    def _warm_up(self, path: Path) -> None:
        # the iterator is deprecated in favour of tf.data, which would start thread pools for a few records
        for record in graph_runtime().records(str(path)):
            log = PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise StatusError(Code.UNIMPLEMENTED, "only predict logs are supported for warm-up")
            request = log.predict_log.request
            self.predict(request.inputs, request.model_spec.signature_name, request.output_filter)

    def close(self) -> None:
        """Free it."""
        self._model.close()


def _check_names(signature: Signature, inputs: Mapping[str, Any]) -> None:
    sent, wanted = set(inputs), set(signature.inputs)
    if sent == wanted:
        return

    def listed(names: set[str]) -> str:
        return "{" + ",".join(sorted(names)) + "}"

    raise invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} "
        f"len({listed(sent)}) != len({listed(wanted)}). "
        f"Sent extra: {listed(sent - wanted)}. Missing but required: {listed(wanted - sent)}."
    )


def _check_outputs(signature: Signature, outputs: Sequence[str]) -> None:
    for place, name in enumerate(outputs):
        if name not in signature.outputs:
            known = ",".join(sorted(signature.outputs))
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}."
            )
        if name in outputs[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")


def _array(index: int, info: TensorInfo, proto: Any) -> Array:
    if proto.dtype != info.data_type:
        raise invalid(
            f"Expects arg[{index}] to be {type_name(info.data_type)} but {type_name(proto.dtype)} is provided "
            f"(input {info.name})"
        )
    if numpy_type(info.data_type) is None:
        raise StatusError(Code.UNIMPLEMENTED, f"input {info.name} is of type {type_name(info.data_type)}")
    try:
        array = to_numpy(proto)
    except ValueError as error:
        raise invalid(f"input {info.name}: {error}") from error
    if info.shape is not None and not _fits(array.shape, info.shape):
        raise invalid(f"input {info.name} must be of shape {list(info.shape)}, got {list(array.shape)}")
    return array


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, s) for s, d in zip(shape, declared, strict=True))
