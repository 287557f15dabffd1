"""A SavedModel in this process: its signatures, and a fast way to run them.

It is loaded the way the model server loads it, as a graph in a session. A call costs some ten microseconds, where the
Python objects of ``tf.saved_model.load`` cost hundreds; and closing the session gives the memory back. As in the model
server, types are compared with the signature, and shapes are left to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.engines import graph_runtime

if TYPE_CHECKING:
    import numpy as np

#: The signature that is served when a request names none.
DEFAULT_SIGNATURE = "serving_default"

#: Source: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/config.proto (RunOptions)
_CALLERS_THREAD = -1


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a signature.

    Attributes:
        name: As requests name it.
        tensor: Its name in the graph.
        data_type: Number of TensorFlow's ``DataType``.
        shape: Sizes, -1 where any size goes; ``None`` if the rank is unknown.
    """

    name: str
    tensor: str
    data_type: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """What one entry point of a model takes and gives."""

    name: str
    method: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]


class SavedModel:
    """A loaded SavedModel. Safe to use from several threads.

    Args:
        path: Folder with ``saved_model.pb``.
        threads: Threads for the operators of one call; 0 lets TensorFlow choose.
        tags: Which of its graphs.

    Attributes:
        signatures: Entry points by name.
        signature_defs: The same as serialised ``SignatureDef``, for the metadata API.

    Raises:
        ServingError: the folder is not a SavedModel, or TensorFlow cannot load it.
    """

    def __init__(self, path: Path | str, threads: int = 0, tags: Sequence[str] = ("serve",)) -> None:
        self._runtime = runtime = graph_runtime()
        self.path = Path(path)
        self._session = runtime.session(
            graph=runtime.graph(),
            config=runtime.config(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads),
        )
        try:
            meta = runtime.load(self._session, list(tags), str(path))
        except Exception as error:  # TensorFlow raises OSError, its own tree, and protobuf's
            self._session.close()
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ServingError(
                f"TensorFlow cannot load the SavedModel: {first}", str(path), "export it again"
            ) from error
        self.signatures = {
            name: _signature(name, definition)
            for name, definition in meta.signature_def.items()
            if not name.startswith("__saved_model")
        }
        self.signature_defs = {name: d.SerializeToString() for name, d in meta.signature_def.items()}
        self._callables: dict[tuple[str, tuple[str, ...], bool], Callable[..., list[Any]]] = {}

    def run(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        inline: bool = False,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run a signature.

        Args:
            inputs: All inputs of the signature, in its types and shapes.
            signature: Which entry point.
            outputs: Names of the wanted outputs; all if empty.
            inline: Run all operators in the calling thread: handing a small one over to another thread costs more than
                the operator.
        """
        definition = self.signatures[signature]
        wanted = tuple(outputs) or tuple(definition.outputs)
        run = self._callables.get((signature, wanted, inline))
        if run is None:  # made twice by two threads at once does no harm
            run = self._callables[signature, wanted, inline] = self.prepared(definition, wanted, inline)
        return dict(zip(wanted, run(*(inputs[name] for name in definition.inputs)), strict=True))

    def prepared(self, definition: Signature, wanted: Sequence[str], inline: bool) -> Callable[..., list[Any]]:
        """A prepared run: `Session.make_callable` looks everything up anew at each call once there is an input.

        Args:
            definition: The signature.
            wanted: Names of outputs.
            inline: As in `run`.

        Returns:
            A function of the inputs, in the order of the signature, that gives the outputs.
        """
        options = self._runtime.options(
            feed=[info.tensor for info in definition.inputs.values()],
            fetch=[definition.outputs[name].tensor for name in wanted],
        )
        if inline:
            options.run_options.inter_op_thread_pool = _CALLERS_THREAD
        run: Callable[..., list[Any]] = self._session._make_callable_from_options(options)
        return run

    def close(self) -> None:
        """Free the weights. Calls in flight end first."""
        self._callables.clear()
        self._session.close()


def _signature(name: str, definition: Any) -> Signature:
    def infos(entries: Any) -> dict[str, TensorInfo]:
        return {
            key: TensorInfo(
                key,
                info.name,
                info.dtype,
                None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
            )
            for key, info in sorted(entries.items())
        }

    return Signature(name, definition.method_name, infos(definition.inputs), infos(definition.outputs))
