"""The body of a classify or regress request over REST: features by name as ``tf.Example``.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ml.serving.protos.messages import Example
from airflow_ml.serving.server.rest_json import decoded, is_base64, json_type, lossless, lossy, number_of, wrong
from airflow_ml.serving.server.status import invalid


def examples_of(document: Mapping[str, Any]) -> list[bytes]:
    """The examples of a REST request: ``examples``, each with the features of ``context`` if there is one.

    Raises:
        StatusError: they are missing or not objects of features.
    """
    context = _example(document["context"]).SerializeToString() if "context" in document else b""
    if "examples" not in document:
        raise wrong(document, "When method is classify, key 'examples' is expected and was not found")
    listed = document["examples"]
    if not isinstance(listed, list):
        raise wrong(document, "Expecting 'examples' value to be an list/array")
    if not listed:
        raise wrong(document, "'examples' value is an empty array")
    return [context + _example(item).SerializeToString() for item in listed]


def _example(item: Any) -> Any:
    if not isinstance(item, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(item)}")
    example = Example()
    for name, content in item.items():
        feature = example.features.feature[name]
        for value in content if isinstance(content, list) else [content]:
            _add(feature, name, value)
    return example


def _add(feature: Any, name: str, value: Any) -> None:
    value = number_of(value)
    converted: int | float | bytes
    if isinstance(value, bool) or (isinstance(value, int) and value < 2**63):
        kind, converted = "int64_list", int(value)
    elif isinstance(value, float):
        if not lossless("float32", value):
            raise lossy(value, "float32")
        kind, converted = "float_list", value
    elif isinstance(value, str):
        kind, converted = "bytes_list", value.encode()
    elif is_base64(value):
        kind, converted = "bytes_list", decoded(value)
    elif isinstance(value, int):
        raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    now = feature.WhichOneof("kind")
    if now not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {now.removesuffix('_list')}")
    getattr(feature, kind).value.append(converted)
