"""Asking a TensorFlow Serving server, over gRPC or REST. Needs no TensorFlow.

``connect("grpc://host:8500")`` and ``connect("http://host:8501")`` give the same calls. Every call has a deadline; only
UNAVAILABLE is tried again, because any other answer would be the same the second time.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.errors import ServerUnreachable

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Columns = Mapping[str, Array | Sequence[Any]]

T = TypeVar("T")

#: How long a call may take, in seconds, retries included.
DEADLINE = 10.0

#: Attempts beyond the first when the server is unavailable, and the first pause between them in seconds.
RETRIES = 3
PAUSE = 0.1


@dataclass(frozen=True)
class Prediction:
    """An answer.

    Attributes:
        outputs: Output name → array. REST does not name a model's only output; it is called ``probability`` here.
        version: The version that answered; ``None`` where the server does not say (REST).
    """

    outputs: Mapping[str, Array]
    version: int | None

    @property
    def probability(self) -> Array:
        """The output ``probability`` of our models, float32 [n]."""
        return self.outputs["probability"]


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version: START, LOADING, AVAILABLE, UNLOADING or END, and what went wrong."""

    version: int
    state: str
    error_code: str
    error_message: str

    @property
    def failed(self) -> bool:
        """Whether the server gave up loading it; END without an error is an unloaded version."""
        return self.state == "END" and self.error_code != "OK"


@dataclass(frozen=True)
class ModelMetadata:
    """The signature ``serving_default`` of a version: input and output names with their types."""

    version: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Client(ABC):
    """A model server as Python calls. Use it as a context manager.

    Args:
        address: Where it is.
        deadline: How long a call may take, in seconds.
    """

    def __init__(self, address: str, deadline: float = DEADLINE) -> None:
        self.address = address
        self.deadline = deadline

    def predict(
        self, model: str, columns: Columns, *, version: int | None = None, label: str | None = None,
        deadline: float | None = None,
    ) -> Prediction:  # fmt: skip
        """Ask a model.

        Args:
            model: Its name.
            columns: Name → values [n]. Floats are sent as float32, whole numbers as int64, objects as text.
            version: This version, or
            label: the version with this label; neither means the newest that is loaded.
            deadline: In place of the client's.

        Raises:
            RequestRefused: the columns do not fit, or the label is unknown.
            ModelNotServed: the model or version is not there.
            ServerUnreachable: nobody answered, three retries included.
            ServingTimeout: no answer in time.
        """
        arrays = {name: _array(values) for name, values in columns.items()}
        return self._retried(lambda left: self._predict(model, arrays, version, label, left), deadline)

    def status(self, model: str, version: int | None = None) -> list[VersionStatus]:
        """The versions of a model that the server knows, newest first; of one version if given.

        Raises:
            ModelNotServed: it knows none.
        """
        return self._retried(lambda left: self._status(model, version, left), None)

    def metadata(self, model: str, *, version: int | None = None, label: str | None = None) -> ModelMetadata:
        """What a version takes and gives.

        Raises:
            ModelNotServed: it is not there.
        """
        return self._retried(lambda left: self._metadata(model, version, label, left), None)

    @abstractmethod
    def _predict(
        self, model: str, columns: Mapping[str, Array], version: int | None, label: str | None, timeout: float
    ) -> Prediction: ...

    @abstractmethod
    def _status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]: ...

    @abstractmethod
    def _metadata(self, model: str, version: int | None, label: str | None, timeout: float) -> ModelMetadata: ...

    @abstractmethod
    def close(self) -> None:
        """Let the connection go."""

    def where(self, model: str, version: int | None = None, label: str | None = None) -> str:
        """Server, model and version, for messages."""
        which = f" version {version}" if version is not None else f" label {label}" if label is not None else ""
        return f"{self.address} model {model}{which}"

    def _retried(self, call: Callable[[float], T], deadline: float | None) -> T:
        end = time.monotonic() + (self.deadline if deadline is None else deadline)
        pause = PAUSE
        for attempt in range(RETRIES + 1):
            try:
                return call(max(end - time.monotonic(), 0.001))
            except ServerUnreachable:
                if attempt == RETRIES or time.monotonic() + pause >= end:
                    raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(url: str, deadline: float = DEADLINE) -> Client:
    """A client for ``grpc://host:port`` or ``http://host:port``. Nothing is sent yet.

    Raises:
        ServingError: another scheme.
    """
    scheme, _, address = url.partition("://")
    if scheme == "grpc" and address:
        from airflow_ml.serving.grpc_client import GrpcClient

        return GrpcClient(address, deadline)
    if scheme in ("http", "https") and address:
        from airflow_ml.serving.rest_client import RestClient

        return RestClient(url.rstrip("/"), deadline)
    raise ServingError("not the address of a model server", url, "write it grpc://host:8500 or http://host:8501")


def _array(values: Any) -> Array:
    import numpy as np

    array = np.asarray(values)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu":
        return array.astype(np.int64, copy=False)
    return array
