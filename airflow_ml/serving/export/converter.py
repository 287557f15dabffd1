"""A torch module as a TensorFlow function: ``torch.export`` first, then operator by operator.

``torch.export`` gives a flat graph of ATen operators without Python in it. Those that we have a lowering for are kept
as they are; the rest is decomposed by torch into smaller ones. What is still unknown then is refused, all of it by
name, before TensorFlow is asked for anything.

Source: https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from airflow_ml.lifecycle.errors import ExportRefused
from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.export import ops_create, ops_logic, ops_math, ops_nn, ops_reduce, ops_select
from airflow_ml.serving.export.ops_shape import ASSERTIONS
from airflow_ml.serving.export.registry import LOWERINGS, Call, Unsupported

tf = tensorflow()

__all__ = ["TorchProgram", "capture"]

_TABLES = (ops_create, ops_logic, ops_math, ops_nn, ops_reduce, ops_select)  # imported for what they register

#: Arithmetic on symbolic sizes, which torch writes as plain Python operators.
_PYTHON = {
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
}  # fmt: skip

_BUILDER = "or give `export_saved_model` a builder='package.module:function' that makes the tf.Module itself"


def capture(module: torch.nn.Module, example: tuple[Any, ...], where: str = "") -> Any:
    """Export ``module`` in evaluation mode with a free first axis of every input.

    Args:
        module: The network; it is not changed.
        example: Its positional arguments: tensors, or dicts and tuples of tensors, with two rows or more.
        where: What to call the model in an error.

    Returns:
        A ``torch.export.ExportedProgram`` of operators that all have a lowering.

    Raises:
        ExportRefused: torch cannot export it, it depends on the batch, or it has operators without a lowering.
    """
    where = where or type(module).__name__
    frozen = copy.deepcopy(module).cpu().eval()
    batch = torch.export.Dim("batch")
    shapes = pytree.tree_map(lambda leaf: {0: batch} if isinstance(leaf, torch.Tensor) else None, example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own trees
            program = torch.export.export(frozen, example, dynamic_shapes=shapes)
            table: Any = torch.export.default_decompositions()
            for overload in list(table.keys()):
                if str(overload) in LOWERINGS:
                    table.pop(overload)
            program = program.run_decompositions(table)
    except Exception as error:  # torch raises many kinds, each with a long explanation
        reason = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ExportRefused(
            f"torch.export cannot capture the network: {' '.join(reason[:2])}",
            where,
            f"make forward() free of branches on values and of a fixed number of rows, {_BUILDER}",
        ) from error
    changed = sorted(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise ExportRefused(
            f"forward() changes the buffers {', '.join(changed)} also in evaluation mode",
            where,
            f"keep state out of forward(), {_BUILDER}",
        )
    unknown = sorted({name for node in program.graph.nodes if (name := _unknown(node)) is not None})
    if unknown:
        raise ExportRefused(
            f"{len(unknown)} operator(s) have no TensorFlow counterpart: {', '.join(unknown)}",
            where,
            f"write the layer with other operators, {_BUILDER}",
        )
    return program


def _unknown(node: Any) -> str | None:
    if node.op in ("placeholder", "output", "get_attr") or _is_dead(node):
        return None
    if node.op == "call_function" and (node.target in _PYTHON or str(node.target) in LOWERINGS):
        return None
    return str(node.target)


def _is_dead(node: Any) -> bool:
    return not node.users and (str(node.target) in ASSERTIONS or node.target in _PYTHON)


class TorchProgram(tf.Module):  # type: ignore[misc, name-defined]
    """An exported torch program that runs as TensorFlow operations.

    Weights are variables, so that they live in the SavedModel's checkpoint and not in its graph, which is limited to 2
    GB.

    Args:
        program: From :func:`capture`.
        where: What to call the model in an error.
    """

    def __init__(self, program: Any, where: str = "network") -> None:
        super().__init__(name="network")
        signature = program.graph_signature
        self._module = program.graph_module
        self._where = where
        bindings = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        state = {**program.state_dict, **program.constants}
        self.weights = {
            placeholder: tf.Variable(state[name].detach().numpy(), trainable=False, name=name.replace(".", "/"))
            for placeholder, name in bindings.items()
        }

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def __call__(self, *arguments: Any) -> Any:
        """Compute the network's output.

        Args:
            arguments: As in the example that was captured, with TensorFlow tensors as leaves.

        Raises:
            ExportRefused: the network uses an operator in a form that has no lowering.
        """
        leaves = iter(pytree.tree_leaves(arguments))
        values: dict[Any, Any] = {}
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                weight = self.weights.get(node.name)
                values[node] = next(leaves) if weight is None else tf.convert_to_tensor(weight)
            elif node.op == "get_attr":
                constant = operator.attrgetter(node.target)(self._module)
                values[node] = tf.constant(constant.detach().numpy())
            elif node.op == "output":
                outputs = map_arg(node.args[0], values.__getitem__)
                return outputs[0] if len(outputs) == 1 else tuple(outputs)
            elif not _is_dead(node):
                values[node] = self._lower(node, values)
        raise AssertionError("a torch graph ends in an output")

    def _lower(self, node: Any, values: Mapping[Any, Any]) -> Any:
        args = map_arg(node.args, values.__getitem__)
        kwargs = map_arg(node.kwargs, values.__getitem__)
        if node.target in _PYTHON:
            return node.target(*args, **kwargs)
        fakes = map_arg(node.args, lambda argument: argument.meta.get("val"))
        call = Call(str(node.target), node.meta.get("val"), fakes)
        try:
            return LOWERINGS[call.name](call, *args, **kwargs)
        except (Unsupported, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            raise ExportRefused(
                f"an operator is used in a form that has no TensorFlow counterpart: {call.name}: {error}",
                self._where,
                f"write the layer with other operators, {_BUILDER}",
            ) from error
