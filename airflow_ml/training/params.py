"""Parameters of the built-in training loop, checked before a process is started."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.refusals import problems_of
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
        dropout: Share of hidden units that a step leaves out, the same ones on however many ranks.
        weight_decay: Decoupled decay of weight matrices (AdamW).
        reduction: ``average`` makes each step one of the whole batch; ``adasum`` adds what ranks found in their own
            parts where it differs, which allows larger batches.
        compression: Gradients cross the network as ``fp16``, or ``bf16``, or as they are.
        backward_passes_per_step: A step's batch is worked on in so many parts, one after the other, and gradients are
            exchanged once: less memory, the same step.
        local_steps: Steps that each rank makes by itself, with its part of each batch, before weights are averaged.
        precision: Of the forward pass in training: ``bfloat16``, ``float32``, or ``auto``, which is bfloat16 on GPUs
            that have it. Weights, validation and the model that is exported are float32.
        window_rows: Rows, over all ranks, that are in memory and shuffled together; a larger split is streamed.
        checkpoint_steps: Steps between two checkpoints inside an epoch; 0 checkpoints after each epoch only.
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
    reduction: Literal["average", "adasum"] = "average"
    compression: Literal["none", "fp16", "bf16"] = "none"
    backward_passes_per_step: int = Field(default=1, ge=1)
    local_steps: int = Field(default=1, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    window_rows: int = Field(default=1_000_000, ge=1)
    checkpoint_steps: int = Field(default=0, ge=0)

    @field_validator("hidden")
    @classmethod
    def _widths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("needs at least one layer, each at least one unit wide; write widths like (256, 128)")
        return value

    @model_validator(mode="after")
    def _one_exchange(self) -> Self:
        for name, other, why in (
            ("local_steps", "reduction", "weights are averaged, and no gradients are exchanged"),
            ("local_steps", "compression", "weights are averaged, and no gradients are exchanged"),
            ("reduction", "compression", "Adasum compares gradients as they are"),
        ):
            set_both = all(getattr(self, each) != Params.model_fields[each].default for each in (name, other))
            if set_both:
                raise ValueError(f"{name}={getattr(self, name)!r} and {other}={getattr(self, other)!r}: {why}")
        return self


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
        first = problems_of(error)[0]
        field = f"training.params.{first.field}".removesuffix(".")
        if error.errors()[0]["type"] == "extra_forbidden":
            known_names = ", ".join(Params.model_fields)
            remedy = f"the built-in network knows {known_names}; other parameters need a `fit` of your own"
            raise SpecError("there is no such parameter", where=field, remedy=remedy) from error
        raise SpecError(first.what, where=field, remedy=first.fix) from error
