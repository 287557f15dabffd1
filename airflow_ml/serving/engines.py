"""Loading TensorFlow, beside torch, without noise, without a crash, and no more of it than is needed."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from dataclasses import dataclass
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_lock = threading.Lock()


def tensorflow() -> Any:
    """The ``tensorflow`` module.

    Import TensorFlow through here, before anything that imports it. CUDA builds of torch bring ``triton``, whose native
    library ends the process with a segmentation fault when it is loaded after TensorFlow's (both carry LLVM). torch
    loads it late, with its first optimizer or export, and does without it where it is not installed; so it is made to
    look like that. Where triton was loaded first, the two get along.
    """
    _prepare()
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)  # the session API is deprecated in Python and what TF Serving runs
    return tf


@dataclass(frozen=True)
class GraphRuntime:
    """The part of TensorFlow that runs a SavedModel as a graph, as a model server does.

    Attributes:
        session: ``tf.compat.v1.Session``.
        graph: ``tf.Graph``.
        config: ``tf.compat.v1.ConfigProto``.
        options: TensorFlow's ``CallableOptions``.
        load: ``tf.compat.v1.saved_model.loader.load``.
        records: ``tf.compat.v1.io.tf_record_iterator``.
    """

    session: Any
    graph: Any
    config: Any
    options: Any
    load: Any
    records: Any


def graph_runtime() -> GraphRuntime:
    """TensorFlow's graph session, without the four fifths of ``import tensorflow`` that define its Python API.

    A night of scoring costs a second of import instead of five. The modules are TensorFlow's own, imported by their own
    names, while its two package initialisers, which import everything else, are held back; `import tensorflow` works as
    ever afterwards. A TensorFlow whose modules lie elsewhere is imported as a whole.
    """
    _prepare()
    with _lock:
        if "tensorflow" in sys.modules:
            return _graph_runtime()
        packages: list[str] = []
        path = None
        try:
            for name in ("tensorflow", "tensorflow.python"):
                spec = PathFinder.find_spec(name, path)
                if spec is None or spec.submodule_search_locations is None:
                    break
                package = ModuleType(name)
                path = package.__path__ = list(spec.submodule_search_locations)
                sys.modules[name] = package
                packages.append(name)
            return _graph_runtime()
        except (ImportError, AttributeError):
            pass
        finally:
            for name in packages:
                del sys.modules[name]
        return _graph_runtime()


def _graph_runtime() -> GraphRuntime:
    def found(module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"tensorflow.{module}"), name)

    runtime = GraphRuntime(
        session=found("python.client.session", "Session"),
        graph=found("python.framework.ops", "Graph"),
        config=found("core.protobuf.config_pb2", "ConfigProto"),
        options=found("core.protobuf.config_pb2", "CallableOptions"),
        load=found("python.saved_model.loader_impl", "load"),
        records=found("python.lib.io.tf_record", "tf_record_iterator"),
    )
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the session API is deprecated in Python, see above
    return runtime


def _prepare() -> None:
    if "tensorflow" not in sys.modules:
        # Only errors: the hints about CPU features and CUDA libraries hide what a stage has to say.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        # oneDNN picks its kernels by the CPU at hand, so that the last digits would differ between machines; for
        # networks on tables it is no faster.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if "triton" not in sys.modules:
        sys.modules["triton"] = None  # type: ignore[assignment]
        logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # warns that it is missing
