"""One loaded version: checks a request against the signature as TF Serving does, and runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.messages import (
    ClassificationResponse,
    MultiInferenceResponse,
    PredictResponse,
    RegressionResponse,
)
from airflow_ml.serving.protos.tensors import (
    MOST_BYTES,
    StandsForMore,
    numpy_type,
    tensorflow_name,
    to_field_proto,
    to_numpy,
)
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE, SavedModel, Signature
from airflow_ml.serving.server import inference
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.inference import CLASSIFY, REGRESS
from airflow_ml.serving.server.metrics import Metrics
from airflow_ml.serving.server.pace import Pace
from airflow_ml.serving.server.rows import RowReader, Sent
from airflow_ml.serving.server.stacking import split, stacked
from airflow_ml.serving.server.status import Code, StatusError, invalid, of_exception
from airflow_ml.serving.tflite_model import FILE, TfLiteModel

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class Servable:
    """A version in memory.

    Args:
        path: The version's folder.
        number: Its version, which goes into answers.
        metrics: Where the time in TensorFlow is counted.
        flags: Which graph of the SavedModel is served, and how strictly.

    Attributes:
        number: Its version.
        pace: How quick it is.

    Raises:
        ServingError: TensorFlow cannot load it.
    """

    def __init__(self, path: Path, number: int, metrics: Metrics, flags: Flags) -> None:
        self._model: SavedModel | TfLiteModel
        if flags.prefer_tflite_model and (path / FILE).is_file():
            self._model = TfLiteModel(path)
        else:
            self._model = SavedModel(path, tags=flags.saved_model_tags.split(","))
        self._metrics = metrics
        self._named = flags.enable_signature_method_name_check
        self.number = number
        self.pace = Pace()
        self.signature_defs = self._model.signature_defs
        self._readers = {name: RowReader(signature) for name, signature in self._model.signatures.items()}

    def signature(self, name: str = "") -> Signature | None:
        """The signature of that name, ``serving_default`` if empty."""
        return self._model.signatures.get(name or DEFAULT_SIGNATURE)

    def predict(self, request: Any, content: bytes = b"", most: int = MOST_BYTES) -> Any:
        """Answer a ``PredictRequest``.

        Args:
            request: The message.
            content: Its bytes, where it came as such: a single row is read from them sooner.
            most: What may be made of a value that stands for the rest of a tensor, in bytes.

        Raises:
            StatusError: the request does not fit the signature, or TensorFlow failed on it.
            StandsForMore: it would have to become larger than `most`.
        """
        spec = request.model_spec
        signature = self.signature(spec.signature_name)
        if signature is None:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f'Serving signature key "{spec.signature_name or DEFAULT_SIGNATURE}" not found.',
            )
        wanted = tuple(request.output_filter)
        arrays = self._readers[signature.name].read([content]) if content else None
        if arrays is None:
            _check_names(signature, request.inputs)
        _check_outputs(signature, wanted)
        if arrays is None:
            arrays = _arrays(signature, request.inputs, most)
        return self._response(spec, self.run(spec.name, "Predict", arrays, signature, wanted))

    def predict_together(self, requests: Sequence[Sent]) -> list[Any] | None:
        """Answer several ``PredictRequest`` of one signature and filter by one call; ``None`` if they do not fit.

        Raises:
            StatusError: TensorFlow failed on them.
        """
        spec, wanted = requests[0].message.model_spec, tuple(requests[0].message.output_filter)
        signature = self.signature(spec.signature_name)
        if signature is None or not set(wanted) <= set(signature.outputs) or len(set(wanted)) < len(wanted):
            return None
        arrays = self._readers[signature.name].read([request.content for request in requests])
        rows = [1] * len(requests)
        if arrays is None:
            inputs = stacked(signature, [request.message for request in requests])
            if inputs is None:
                return None
            arrays, rows = inputs
        parts = split(self.run(spec.name, "Predict", arrays, signature, wanted), rows)
        return None if parts is None else [self._response(spec, outputs) for outputs in parts]

    def _response(self, spec: Any, outputs: Mapping[str, Array]) -> Any:
        response = PredictResponse()
        self._sign(response.model_spec, spec)
        for name, array in outputs.items():
            to_field_proto(array, response.outputs[name])
        return response

    def classify(self, request: Any) -> Any:
        """Answer a ``ClassificationRequest``."""
        response = ClassificationResponse()
        outputs, count = self._ask(request, "Classify", CLASSIFY)
        inference.classifications(outputs, count, response.result)
        self._sign(response.model_spec, request.model_spec)
        return response

    def regress(self, request: Any) -> Any:
        """Answer a ``RegressionRequest``."""
        response = RegressionResponse()
        outputs, count = self._ask(request, "Regress", REGRESS)
        inference.regressions(outputs, count, response.result)
        self._sign(response.model_spec, request.model_spec)
        return response

    def multi_inference(self, request: Any) -> Any:
        """Answer a ``MultiInferenceRequest``: several signatures of one model over the same examples.

        Raises:
            StatusError: a signature is asked twice, unknown or of another method.
        """
        seen: set[str] = set()
        tasks: list[tuple[Any, Signature]] = []
        for task in request.tasks:
            name = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if name in seen:
                raise invalid(f"Duplicate evaluation of signature: {name}")
            seen.add(name)
            signature = self.signature(name)
            if signature is None:
                raise invalid(f"Requested signature not found in model graph: {name}")
            if task.method_name not in (CLASSIFY, REGRESS):
                raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
            inference.check(signature, task.method_name, self._named)
            tasks.append((task, signature))
        examples = inference.examples_of(request.input)
        response = MultiInferenceResponse()
        for task, signature in tasks:
            outputs = self._run_examples(task.model_spec.name, "MultiInference", signature, task.method_name, examples)
            result = response.results.add()
            if task.method_name == CLASSIFY:
                inference.classifications(outputs, len(examples), result.classification_result)
            else:
                inference.regressions(outputs, len(examples), result.regression_result)
            self._sign(result.model_spec, task.model_spec)
        return response

    def _ask(self, request: Any, api: str, method: str) -> tuple[dict[str, Array], int]:
        spec = request.model_spec
        signature = self.signature(spec.signature_name)
        if signature is None:
            raise invalid(f"No signature was found with the name: {spec.signature_name or DEFAULT_SIGNATURE}")
        inference.check(signature, method, self._named)
        examples = inference.examples_of(request.input)
        return self._run_examples(spec.name, api, signature, method, examples), len(examples)

    def _run_examples(
        self, model: str, api: str, signature: Signature, method: str, examples: list[bytes]
    ) -> dict[str, Array]:
        (name,) = signature.inputs
        self._metrics.examples.observe(len(examples), model)
        self._metrics.examples_total.add(model, by=len(examples))
        inputs = {name: inference.example_array(examples)}
        return self.run(model, api, inputs, signature, inference.check(signature, method, self._named))

    def run(
        self, model: str, api: str, inputs: Mapping[str, Array], signature: Signature, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Run TensorFlow.

        Raises:
            StatusError: it failed.
        """
        began = time.perf_counter()
        try:
            found = self._model.run(inputs, signature.name, outputs, inline=self.pace.quick)
        except Exception as error:
            raise of_exception(error) from error
        seconds = time.perf_counter() - began
        self.pace.observe(seconds)
        self._metrics.runtime.observe(seconds * 1e6, model, api, "TF1")
        return found

    def _sign(self, into: Any, asked: Any) -> None:
        into.name = asked.name
        into.version.value = self.number
        into.signature_name = asked.signature_name or DEFAULT_SIGNATURE

    def close(self) -> None:
        """Free it."""
        self._model.close()


def _check_names(signature: Signature, inputs: Mapping[str, Any]) -> None:
    wanted = signature.inputs
    if len(inputs) == len(wanted):
        for name in wanted:
            if name not in inputs:
                raise invalid(
                    f"Signature input alias: {name}(feed name: {wanted[name].tensor}) not found in request and no "
                    f"default value provided. Inputs expected to be in the request {{{','.join(sorted(inputs))}}}, "
                    "or default input alias set: "
                )
        return

    def listed(names: set[str]) -> str:
        return "{" + ",".join(sorted(names)) + "}"

    sent, needed = set(inputs), set(wanted)
    raise invalid(
        f"input size does not match signature: {len(sent)}!={len(needed)} "
        f"len({listed(sent)}) != len({listed(needed)}). "
        f"Sent extra: {listed(sent - needed)}. Missing but required: {listed(needed - sent)}."
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


def _arrays(signature: Signature, protos: Mapping[str, Any], most: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for index, (name, info) in enumerate(signature.inputs.items()):
        proto = protos[name]
        if proto.dtype != info.data_type:
            raise invalid(
                f"Expects arg[{index}] to be {tensorflow_name(info.data_type)} "
                f"but {tensorflow_name(proto.dtype)} is provided"
            )
        if numpy_type(info.data_type) is None:
            raise StatusError(Code.UNIMPLEMENTED, f"input {name} is of type {tensorflow_name(info.data_type)}")
        try:
            arrays[name] = to_numpy(proto, most)
        except StandsForMore:
            raise
        except ValueError as error:
            raise invalid(f"tensor parsing error: {name}") from error
    return arrays
