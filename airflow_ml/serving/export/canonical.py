"""Equal models, equal bytes: take the one random thing out of a SavedModel.

TensorFlow puts a random id into ``fingerprint.pb``, for its own telemetry. With an id that follows from the content, an
export that is repeated in a fresh process gives the same folder, and a hash of the folder names the model. (A *second*
export in one process does not: TensorFlow numbers its functions on.)

Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/fingerprint.proto
"""

from __future__ import annotations

import uuid
from pathlib import Path

from airflow_ml.serving.files import tree_sha256


def rewrite(saved_model: Path) -> None:
    """Give ``saved_model`` (a folder that nobody reads yet) an id that follows from its content."""
    from tensorflow.core.protobuf import fingerprint_pb2

    path = saved_model / "fingerprint.pb"
    if not path.exists():
        return
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    path.unlink()
    fingerprint.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, tree_sha256(saved_model)))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))
