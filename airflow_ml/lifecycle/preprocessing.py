"""What happens to raw columns before a network sees them: vocabularies, filling, scaling.

The values are learnt once, from the training split (:func:`fit`), and then live in three places that must agree: in
training, which applies them with numpy; in the exported model, which carries them as TensorFlow ops; and in the gate,
which compares the two. So the rules are few and exact:

* a category is its place in the vocabulary, from 1; 0 stands for unknown, missing and the empty string;
* a number that is not finite is missing and becomes ``fill``; then ``(x − mean) · (1 / scale)``, all in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from airflow_ml.spec.base import Frozen

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: What stands at index 0 of every vocabulary.
UNKNOWN = 0

#: A missing value in a column of whole numbers, which has no other way to say so.
MISSING_INT = -(2**63)


class Vocabulary(Frozen):
    """The known categories of one column.

    Attributes:
        name: The raw column.
        tokens: The categories; the first has index 1. Integers are written as text.
        dtype: What a request carries: text, or whole numbers (which have no way to say "missing").
    """

    name: str
    tokens: tuple[str, ...]
    dtype: Literal["string", "int64"] = "string"

    @model_validator(mode="after")
    def _check(self) -> Vocabulary:
        if len(set(self.tokens)) != len(self.tokens):
            raise ValueError(f"vocabulary {self.name!r} names a token twice")
        if "" in self.tokens:
            raise ValueError(f"vocabulary {self.name!r} has the empty string, which stands for a missing value")
        if self.dtype == "int64":
            for token in self.tokens:
                if str(int(token)) != token:
                    raise ValueError(f"vocabulary {self.name!r} is of whole numbers, but has {token!r}")
        return self

    @property
    def size(self) -> int:
        """Rows that an embedding of this column needs: the tokens and the unknown."""
        return len(self.tokens) + 1

    def apply(self, column: Array) -> Array:
        """Look ``column`` [n] up: int64 [n]."""
        import numpy as np

        values = np.asarray(column)
        table: dict[Any, int]
        if self.dtype == "int64":
            table = {int(token): index for index, token in enumerate(self.tokens, start=1)}
            values = as_whole(values)
        else:
            table = {token: index for index, token in enumerate(self.tokens, start=1)}
            values = as_text(values)
        # A dictionary beats sorting and searching on repeated categories.
        return np.fromiter((table.get(v, UNKNOWN) for v in values.tolist()), dtype=np.int64, count=len(values))


class Scaling(Frozen):
    """How one numeric column is filled and scaled.

    Attributes:
        name: The raw column.
        fill: Stands for a missing value, in the column's own unit.
        mean: Is subtracted.
        scale: Divides; positive.
    """

    name: str
    fill: float = Field(allow_inf_nan=False)
    mean: float = Field(allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)

    @property
    def factor(self) -> float:
        """``1 / scale``: both sides multiply, because a TensorFlow graph is free to replace a division by this."""
        return 1.0 / self.scale

    def apply(self, column: Array) -> Array:
        """Fill and scale ``column`` [n]: float32 [n]."""
        import numpy as np

        values = np.asarray(column)
        if values.dtype == object:
            values = np.array([v if _present(v) else np.nan for v in values.tolist()], dtype=np.float32)
        values = values.astype(np.float32, copy=False)
        values = np.where(np.isfinite(values), values, np.float32(self.fill))
        return (values - np.float32(self.mean)) * np.float32(self.factor)


class Preprocessing(Frozen):
    """From raw columns to the two tensors of a network.

    Attributes:
        categorical: In the order of the network's first input.
        numeric: In the order of its second.
    """

    categorical: tuple[Vocabulary, ...] = ()
    numeric: tuple[Scaling, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if not self.columns:
            raise ValueError("a model needs at least one input column")
        twice = [name for name, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise ValueError(f"columns named twice: {', '.join(sorted(twice))}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns, categorical first."""
        return (*(v.name for v in self.categorical), *(s.name for s in self.numeric))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Rows of each embedding, unknown included."""
        return tuple(v.size for v in self.categorical)

    def apply(self, columns: Mapping[str, Array]) -> tuple[Array, Array]:
        """Turn raw columns into the network's inputs.

        Args:
            columns: Name → [n]. Others than ours are ignored.

        Returns:
            int64 [n, categorical columns] and float32 [n, numeric columns].

        Raises:
            KeyError: a column is missing.
            ValueError: the columns are of different lengths.
        """
        import numpy as np

        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise KeyError(f"columns missing: {', '.join(missing)}; got {', '.join(columns)}")
        lengths = {len(columns[name]) for name in self.columns}
        if len(lengths) != 1:
            raise ValueError(f"columns are of different lengths: {sorted(lengths)}")
        (rows,) = lengths
        categories = np.empty((rows, len(self.categorical)), dtype=np.int64)
        for index, vocabulary in enumerate(self.categorical):
            categories[:, index] = vocabulary.apply(columns[vocabulary.name])
        numbers = np.empty((rows, len(self.numeric)), dtype=np.float32)
        for index, scaling in enumerate(self.numeric):
            numbers[:, index] = scaling.apply(columns[scaling.name])
        return categories, numbers

    def to_json(self) -> str:
        """One line of JSON; equal values give equal text."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Read what :meth:`to_json` wrote."""
        return cls.model_validate_json(text)


def as_text(column: Array) -> Array:
    """``column`` [n] as an array of ``str`` objects [n]; what is missing (None, NaN) as the empty string.

    Whatever feeds a text input of the exported model goes through here, so that a number or a bool reads the same
    everywhere.
    """
    import numpy as np

    values = np.asarray(column)
    if values.dtype == object:
        listed = values.tolist()
        kinds = set(map(type, listed))
        if kinds <= {str}:
            return values
        if kinds <= {str, type(None)}:
            texts = [v or "" for v in listed]
        else:
            texts = [v if type(v) is str else _as_str(v) for v in listed]
    else:
        texts = [_as_str(v) for v in values.tolist()]
    out = np.empty(len(texts), dtype=object)
    out[:] = texts
    return out


def as_whole(column: Array) -> Array:
    """``column`` [n] as int64 [n]; what is missing as :data:`MISSING_INT`, which no vocabulary has."""
    import numpy as np

    values = np.asarray(column)
    if values.dtype.kind in "iu":
        return values.astype(np.int64, copy=False)
    return np.array([int(v) if _present(v) else MISSING_INT for v in values.tolist()], dtype=np.int64)


def _as_str(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # the same column without a gap would hold whole numbers
    return str(value) if _present(value) else ""


def fit(
    columns: Mapping[str, Array], categorical: Sequence[str], numeric: Sequence[str], min_count: int = 1
) -> Preprocessing:
    """Learn the preprocessing from a training split.

    A vocabulary holds the categories seen at least ``min_count`` times, the most frequent first (ties by name), so that
    it does not depend on the order of rows. A number is filled by the median and scaled by mean and standard deviation
    of the finite values; a column without spread, or without any value, is only shifted.

    Args:
        columns: Name → [n], the training rows only: statistics of other splits would leak into the model.
        categorical: Columns to look up. Columns of whole numbers become ``int64`` inputs, others text.
        numeric: Columns to scale.
        min_count: A category seen less often is unknown.
    """
    return Preprocessing(
        categorical=tuple(_fit_vocabulary(name, columns[name], min_count) for name in categorical),
        numeric=tuple(_fit_scaling(name, columns[name]) for name in numeric),
    )


def _fit_vocabulary(name: str, column: Array, min_count: int) -> Vocabulary:
    import numpy as np

    values = np.asarray(column)
    whole = values.dtype.kind in "iu"
    counts = Counter(as_text(values).tolist())
    del counts[""]
    kept = sorted((token for token, count in counts.items() if count >= min_count), key=lambda t: (-counts[t], t))
    return Vocabulary(name=name, tokens=tuple(kept), dtype="int64" if whole else "string")


def _fit_scaling(name: str, column: Array) -> Scaling:
    import numpy as np

    values = np.asarray(column)
    if values.dtype == object:
        values = np.array([v if _present(v) else np.nan for v in values.tolist()])
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Scaling(name=name, fill=0.0, mean=0.0, scale=1.0)
    spread = float(values.std())
    # Below the resolution of float32 there is no spread that a network could see, only rounding to blow up.
    flat = spread <= 1e-6 * max(1.0, float(np.abs(values).max()))
    return Scaling(name=name, fill=float(np.median(values)), mean=float(values.mean()), scale=1.0 if flat else spread)


def _present(value: object) -> bool:
    """Neither None nor NaN."""
    return value is not None and value == value
