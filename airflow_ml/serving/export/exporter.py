"""``export_saved_model``: a trained network and its preprocessing become one folder that TF Serving loads.

The folder appears under its name in one rename, complete or not at all; nothing is written for a model that is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow_ml.lifecycle.errors import ExportRefused
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.files import fsync_tree
from airflow_ml.serving.golden import GoldenRequest
from airflow_ml.serving.protos.tensors import type_name
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE, SavedModel
from airflow_ml.spec.base import Frozen

if TYPE_CHECKING:
    import torch

#: Where TF Serving looks for requests to warm a model up with.
#: Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"

#: The name of the exported model's one output.
OUTPUT = "probability"


class SignatureTensor(Frozen):
    """One named input or output; a size of -1 is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class ExportedSignature(Frozen):
    """What the exported model takes and gives.

    Attributes:
        inputs: One vector a raw column.
        outputs: ``probability``, float32 [rows].
        conversion: Whether the graph comes from our interpreter or from the user's builder.
    """

    inputs: tuple[SignatureTensor, ...]
    outputs: tuple[SignatureTensor, ...]
    conversion: Literal["torch.export", "builder"]

    @property
    def input_types(self) -> dict[str, str]:
        """Input name → dtype."""
        return {tensor.name: tensor.dtype for tensor in self.inputs}


def export_saved_model(
    module: torch.nn.Module,
    preprocessing: Preprocessing,
    destination: Path,
    *,
    builder: str | None = None,
    warmup: Sequence[GoldenRequest] = (),
) -> ExportedSignature:
    """Write ``module`` as a SavedModel of raw columns.

    The signature ``serving_default`` has one input a column and the output ``probability``. The same model gives the
    same bytes, except with a builder, whose graph is its own affair.

    Args:
        module: ``forward(categorical, numeric)`` or ``forward({"categorical": …, "numeric": …})``; one logit a row.
        preprocessing: Learnt with it.
        destination: The folder to make; its parent exists, it does not.
        builder: ``package.module:function(module, preprocessing) -> tf.Module`` with a ``serving_default`` function, in
            place of our conversion.
        warmup: Requests that the server runs before it calls the model available.

    Raises:
        ExportRefused: the network cannot be converted; the operators in the way are named. Nothing was written.
    """
    if destination.exists():
        raise ExportRefused("the folder exists already", str(destination), "export into a new folder")
    from airflow_ml.serving.export import canonical

    built = _build(builder, module, preprocessing) if builder else _convert(module, preprocessing)
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    try:
        tensorflow().saved_model.save(built, str(partial), signatures={DEFAULT_SIGNATURE: built.serving_default})
        if warmup:
            _write_warmup(partial / WARMUP, warmup)
        canonical.rewrite(partial)
        signature = _read_signature(partial, preprocessing, "builder" if builder else "torch.export")
        fsync_tree(partial)
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return signature


def _convert(module: torch.nn.Module, preprocessing: Preprocessing) -> Any:
    import torch

    from airflow_ml.serving.export.converter import TorchProgram, capture
    from airflow_ml.serving.export.network import arguments
    from airflow_ml.serving.export.raw_inputs import RawInputs

    tf = tensorflow()
    where = type(module).__name__
    rows = 3  # more than one, and unlike the sizes that a network has: torch would take 0 and 1 for constants
    example = (
        torch.zeros((rows, len(preprocessing.categorical)), dtype=torch.int64),
        torch.zeros((rows, len(preprocessing.numeric)), dtype=torch.float32),
    )
    network = TorchProgram(capture(module, arguments(module, *example), where), where)
    raw_inputs = RawInputs(preprocessing)

    class ServedModel(tf.Module):  # type: ignore[misc, name-defined]
        """Raw columns in, probability out."""

        def __init__(self) -> None:
            super().__init__(name="served_model")
            self.raw_inputs = raw_inputs
            self.network = network

            def serving_default(**columns: Any) -> dict[str, Any]:
                logit = network(*arguments(module, *raw_inputs(columns)))
                if not tf.is_tensor(logit) or logit.shape.rank not in (1, 2) or logit.shape[1:].num_elements() != 1:
                    shape = getattr(logit, "shape", type(logit).__name__)
                    raise ExportRefused(
                        f"forward() gives {shape}", where, "return one logit a row: [rows] or [rows, 1]"
                    )
                return {OUTPUT: tf.sigmoid(tf.cast(tf.reshape(logit, [-1]), tf.float32))}

            function = tf.function(serving_default, autograph=False)
            self.serving_default = function.get_concrete_function(**raw_inputs.specs())

    return ServedModel()


def _build(builder: str, module: torch.nn.Module, preprocessing: Preprocessing) -> Any:
    module_name, _, attribute = builder.partition(":")
    try:
        function = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExportRefused(
            f"cannot import the builder: {error}", builder, "write it 'package.module:function'"
        ) from error
    built = function(module, preprocessing)
    if not hasattr(built, "serving_default"):
        raise ExportRefused(
            f"the builder returned a {type(built).__name__} without serving_default",
            builder,
            "return a tf.Module whose `serving_default` is a tf.function with an input signature",
        )
    return built


def _read_signature(
    saved_model: Path, preprocessing: Preprocessing, conversion: Literal["torch.export", "builder"]
) -> ExportedSignature:
    """Load what was written, which is the first proof that it loads, and compare its columns with ours."""
    loaded = SavedModel(saved_model, threads=1)
    signature = loaded.signatures[DEFAULT_SIGNATURE]
    loaded.close()

    def tensors(infos: Any) -> tuple[SignatureTensor, ...]:
        return tuple(
            SignatureTensor(name=i.name, dtype=type_name(i.data_type), shape=i.shape or ()) for i in infos.values()
        )

    if set(signature.inputs) != set(preprocessing.columns) or set(signature.outputs) != {OUTPUT}:
        raise ExportRefused(
            f"serving_default takes {sorted(signature.inputs)} and gives {sorted(signature.outputs)}",
            str(saved_model.name),
            f"it must take {sorted(preprocessing.columns)} and give ['{OUTPUT}']",
        )
    return ExportedSignature(
        inputs=tensors(signature.inputs), outputs=tensors(signature.outputs), conversion=conversion
    )


def _write_warmup(path: Path, requests: Sequence[GoldenRequest]) -> None:
    from airflow_ml.serving.protos.messages import PredictionLog
    from airflow_ml.serving.protos.tensors import fill

    path.parent.mkdir(parents=True, exist_ok=True)
    with tensorflow().io.TFRecordWriter(str(path)) as writer:
        for golden in requests:
            log = PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = DEFAULT_SIGNATURE
            for name, column in golden.columns().items():
                fill(column, request.inputs[name])
            writer.write(log.SerializeToString(deterministic=True))
