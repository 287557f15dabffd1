"""One question to a model server, apart from how it travels and how one waits for it.

A protocol makes calls out of arguments; a transport sends them; a client waits, with or without an event loop. What may
be tried again, and when, is decided here, once for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from airflow_ml.serving.errors import AnswerUnreadable
from airflow_ml.serving.saved_model import DEFAULT_SIGNATURE

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Columns = Mapping[str, Array | Sequence[Any]]

T = TypeVar("T")

#: How long a call may take, in seconds, retries included.
DEADLINE = 10.0

#: How long a server may take to load the models that are new in a configuration, in seconds.
RELOAD_DEADLINE = 60.0

#: Attempts beyond the first when the server is unavailable, and the first pause between them in seconds.
RETRIES = 3
PAUSE = 0.1


@dataclass(frozen=True)
class Target:
    """The version that is asked.

    Attributes:
        model: Its name.
        version: This version, or
        label: the version with this label; neither means the newest that is loaded.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def at(self, address: str) -> str:
        """Server, model and version, for messages."""
        if self.version is not None:
            return f"{address} model {self.model} version {self.version}"
        return f"{address} model {self.model}" + (f" label {self.label}" if self.label is not None else "")


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


@dataclass(frozen=True)
class Call(Generic[T]):
    """A question, ready to be sent.

    Attributes:
        method: gRPC: the method's name. REST: verb and path.
        request: gRPC: the message. REST: the body, or ``None``.
        read: What the answer says.
        where: Server, model and version, for messages.
    """

    method: str
    request: Any
    read: Callable[[Any], T]
    where: str

    def heard(self, answer: Any) -> T:
        """What an answer says.

        Raises:
            AnswerUnreadable: It is of another form than the protocol's, or of a type that we do not carry.
        """
        try:
            return self.read(answer)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise AnswerUnreadable(
                f"the answer cannot be read: {error!r}", self.where, "is that a model server, and a model of ours?"
            ) from error


class Speaker(Protocol):
    """Arguments as calls, in one protocol."""

    def predict(
        self, target: Target, columns: Mapping[str, Array], signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
    ) -> Call[Prediction]:  # fmt: skip
        """Ask a model by one of its signatures, for some of its outputs; for all if none are named."""

    def status(self, target: Target) -> Call[list[VersionStatus]]:
        """Ask for the states of a model's versions, or of one."""

    def metadata(self, target: Target) -> Call[ModelMetadata]:
        """Ask what a version takes and gives."""

    def reload(self, config: Any) -> Call[None]:
        """Replace the server's configuration."""


class Patience:
    """The deadline of a call with all its retries.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._attempt = 0

    @property
    def left(self) -> float:
        """Seconds that are left, never none: who asks too late is told so by the call."""
        return max(self._end - time.monotonic(), 0.001)

    def pause(self) -> float | None:
        """Seconds to wait before another attempt at an unavailable server; ``None`` to give up."""
        pause = PAUSE * 2**self._attempt
        self._attempt += 1
        return None if self._attempt > RETRIES or time.monotonic() + pause >= self._end else pause


def arrays_of(columns: Columns, as_given: bool = False) -> dict[str, Array]:
    """Columns as they are sent: floats as float32, whole numbers as int64, objects as text; or in their own types."""
    if as_given:
        import numpy as np

        return {name: np.asarray(values) for name, values in columns.items()}
    return {name: _array(values) for name, values in columns.items()}


def _array(values: Any) -> Array:
    import numpy as np

    array = np.asarray(values)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind in "iu":
        return array.astype(np.int64, copy=False)
    return array
