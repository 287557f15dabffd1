"""Parameters of the built-in training loop, checked before a process is started."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.spec.base import Frozen


class Params(Frozen):
    """What the built-in loop and network can be told.

    Attributes:
        epochs: Passes over the training split at most.
        batch_size: Rows of a step over *all* ranks, so that the number of ranks does not change what is learnt.
        learning_rate: The highest one, reached after the warm-up; from there it falls along half a cosine.
        warmup_epochs: Epochs in which the learning rate rises from 0, fractions allowed.
        patience: Epochs without a better validation loss after which training stops.
        hidden: Widths of the hidden layers.
        embedding: Widest embedding of a category; small vocabularies get narrower ones.
        bins: Quantile bins that a number is spread over before the first layer; 0 feeds the bare number.
        dropout: Share of hidden units that a step leaves out.
        weight_decay: Decoupled decay of weight matrices (AdamW).
    """

    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    warmup_epochs: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    patience: int = Field(default=3, ge=1)
    hidden: tuple[int, ...] = (256, 128)
    embedding: int = Field(default=16, ge=1, le=4096)
    bins: int = Field(default=16, ge=0, le=256)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)

    @field_validator("hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("needs at least one layer, each at least one unit wide")
        return value


def parse(params: Mapping[str, Any], own_fit: bool) -> Params:
    """The loop's parameters.

    Args:
        params: Of the declaration, overridden by those of the request.
        own_fit: Whether a user's ``fit`` trains: then keys that we do not know are its own, and are left alone.

    Raises:
        SpecError: Names the field, what is wrong, and the choices.
    """
    known = {name: value for name, value in params.items() if name in Params.model_fields} if own_fit else params
    try:
        return Params.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known_names = ", ".join(Params.model_fields)
            remedy = f"the built-in network knows {known_names}; other parameters need a `fit` of your own"
            raise SpecError("there is no such parameter", where=f"training.params.{field}", remedy=remedy) from error
        raise SpecError(
            f"{first['input']!r}: {first['msg']}", where=f"training.params.{field}", remedy="correct the value"
        ) from error
