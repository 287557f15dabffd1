"""Write ``descriptors.binpb``: TF Serving's protocol, without TensorFlow.

``tensorflow_serving.apis.predict_pb2`` imports TensorFlow, which costs seconds and half a gigabyte in a process that
only wants to ask a server a question. The file descriptors behind it are 50 kB of data. This script copies them out of
the installed ``tensorflow-serving-api`` (a development dependency); :mod:`airflow_ml.serving.protos.messages` loads
them into a pool of its own.

Run it when ``tensorflow-serving-api`` moves to a new version::

    python -m airflow_ml.serving.protos.build

Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

DESCRIPTORS = Path(__file__).with_name("descriptors.binpb")

#: The files that we speak; what they import follows by itself.
ROOTS = (
    "tensorflow_serving.apis.prediction_service_pb2",
    "tensorflow_serving.apis.model_service_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.get_model_metadata_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)


def collect() -> bytes:
    """The serialised ``FileDescriptorSet`` of :data:`ROOTS` and all that they import, dependencies first."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: Any) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

    for root in ROOTS:
        add(import_module(root).DESCRIPTOR)
    return files.SerializeToString(deterministic=True)


def main() -> None:
    """Write the file."""
    content = collect()
    DESCRIPTORS.write_bytes(content)
    print(f"{DESCRIPTORS.name}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
