"""Classify, Regress and MultiInference: ``tf.Example`` in, classes and values out.

The servable takes serialised examples as one vector of strings. What a signature must look like, and what its outputs
must, is checked here; messages are TF Serving's.

Source: https://www.tensorflow.org/tfx/serving/signature_defs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ml.serving.protos.messages import DATA_TYPES
from airflow_ml.serving.saved_model import Signature
from airflow_ml.serving.server.status import Code, StatusError, invalid

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"

_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"
_KIND = {CLASSIFY: "classification", REGRESS: "regression"}


def examples_of(message: Any) -> list[bytes]:
    """The serialised examples of an ``Input``; a context is merged into each of them.

    Raises:
        StatusError: there is none.
    """
    if message.WhichOneof("kind") == "example_list_with_context":
        with_context = message.example_list_with_context
        context = with_context.context.SerializeToString()
        # messages one after the other are read as one, later fields winning: so are context and example
        examples = [context + example.SerializeToString() for example in with_context.examples]
    else:
        examples = [example.SerializeToString() for example in message.example_list.examples]
    if not examples:
        raise invalid("Input is empty.")
    return examples


def example_array(examples: Sequence[bytes]) -> Array:
    """Serialised examples as the vector of strings that a graph parses."""
    import numpy as np

    array = np.empty(len(examples), dtype=object)
    array[:] = examples
    return array


def check(signature: Signature, method: str, named: bool) -> tuple[str, ...]:
    """The outputs to ask for.

    Args:
        signature: Of the model.
        method: `CLASSIFY` or `REGRESS`.
        named: Whether the signature must also be declared as one of this method. TensorFlow 2 declares all its
            signatures as ``predict``, whatever they are made for.

    Raises:
        StatusError: the signature is not of this method, or not made as the method wants it.
    """
    if named and signature.method != method:
        raise invalid(f"Expected {_KIND[method]} signature method_name to be {method}. Was: {signature.method}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if method == REGRESS and len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if method == CLASSIFY and len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUTS not in signature.inputs:
        raise StatusError(
            Code.FAILED_PRECONDITION, f"No {_KIND[method]} inputs found in SignatureDef: {signature.name}"
        )
    wanted = (_CLASSES, _SCORES) if method == CLASSIFY else (_OUTPUTS,)
    found = tuple(name for name in wanted if name in signature.outputs)
    if not found and method == CLASSIFY:
        raise StatusError(
            Code.FAILED_PRECONDITION,
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {signature.name}",
        )
    if not found:
        raise StatusError(Code.FAILED_PRECONDITION, f"No regression outputs found in SignatureDef: {signature.name}")
    return found


def classifications(outputs: Mapping[str, Array], count: int, result: Any) -> None:
    """Fill a ``ClassificationResult``.

    Raises:
        StatusError: the outputs are not [count, classes] of strings and floats.
    """
    classes, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, array, kind, type_name in ((_CLASSES, classes, "O", "DT_STRING"), (_SCORES, scores, "f", "DT_FLOAT")):
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}")
        if array.dtype.kind != kind or (kind == "f" and array.dtype.itemsize != 4):
            raise invalid(f"Expected {name} Tensor of {type_name}. Got: {_type(array)}")
        if array.shape[0] != count:
            raise invalid(f"Expected {name} output batch size of {count}. Got: {array.shape[0]}")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    shape = classes.shape if classes is not None else scores.shape if scores is not None else (0, 0)
    labels = classes.tolist() if classes is not None else None
    values = scores.tolist() if scores is not None else None
    for row in range(count):
        entry = result.classifications.add()
        for column in range(shape[1]):
            found = entry.classes.add()
            if labels is not None:
                found.label = labels[row][column].decode(errors="replace")
            if values is not None:
                found.score = values[row][column]


def regressions(outputs: Mapping[str, Array], count: int, result: Any) -> None:
    """Fill a ``RegressionResult``.

    Raises:
        StatusError: the output is not [count] or [count, 1] of floats.
    """
    array = outputs[_OUTPUTS]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(array)}"
        )
    if array.shape[0] != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}")
    if array.dtype.kind != "f" or array.dtype.itemsize != 4:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_type(array)}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _shape(array: Array) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def _type(array: Array) -> str:
    from airflow_ml.serving.protos.tensors import to_proto

    names = {number: name for name, number in DATA_TYPES.items()}
    return names.get(to_proto(array[:0]).dtype, str(array.dtype))
