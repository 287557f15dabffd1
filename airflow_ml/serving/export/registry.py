"""The table of operators: the name of an ATen operator → the function that says it in TensorFlow.

A lowering takes the call's context and then the operator's own arguments, under the names and with the defaults of its
ATen schema. Tensors arrive as TensorFlow tensors, symbolic sizes as int64 scalars, everything else as torch wrote it.

Source: https://docs.pytorch.org/docs/stable/torch.compiler_ir.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Unsupported(Exception):
    """An operator is known, but not in the form that the model uses it."""


@dataclass(frozen=True)
class Call:
    """What a lowering may know about the call beside its arguments.

    Attributes:
        name: The operator, ``aten.add.Tensor``.
        out: torch's own idea of the result: a fake tensor with dtype and shape, or a tuple of them.
        fakes: The same for each positional argument that is a tensor; other arguments as they are.
    """

    name: str
    out: Any
    fakes: tuple[Any, ...]

    def unsupported(self, why: str) -> Unsupported:
        """The error to raise for a form of the operator that has no lowering."""
        return Unsupported(f"{self.name} ({why})")


Lowering = Callable[..., Any]

LOWERINGS: dict[str, Lowering] = {}


def op(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ATen operators, named without their ``aten.`` prefix."""

    def register(function: Lowering) -> Lowering:
        for name in names:
            LOWERINGS[f"aten.{name}"] = function
        return function

    return register


def simple(function: Callable[..., Any], *names: str) -> None:
    """Register a function of the positional arguments; named ones (memory format …) mean nothing to TensorFlow."""

    @op(*names)
    def lowering(call: Call, *args: Any, **_: Any) -> Any:
        return function(*args)
