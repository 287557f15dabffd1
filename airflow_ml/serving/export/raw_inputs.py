"""The preprocessing as TensorFlow operations: raw columns in, the network's two tensors out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ml.lifecycle.preprocessing import UNKNOWN, Preprocessing, Scaling, Vocabulary
from airflow_ml.serving.engines import tensorflow

tf = tensorflow()


class RawInputs(tf.Module):  # type: ignore[misc, name-defined]
    """:meth:`Preprocessing.apply` in TensorFlow.

    Args:
        preprocessing: What was learnt from the training split.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__(name="raw_inputs")
        self._categorical = preprocessing.categorical
        self._numeric = preprocessing.numeric
        self.vocabularies = {vocabulary.name: _table(vocabulary) for vocabulary in preprocessing.categorical}

    def specs(self) -> dict[str, Any]:
        """The serving signature's inputs: one vector of free length a column."""
        specs = {v.name: tf.TensorSpec([None], tf.as_dtype(v.dtype), name=v.name) for v in self._categorical}
        return specs | {s.name: tf.TensorSpec([None], tf.float32, name=s.name) for s in self._numeric}

    def __call__(self, columns: Mapping[str, Any]) -> tuple[Any, Any]:
        """int64 [n, categorical] and float32 [n, numeric]."""
        rows = tf.shape(next(iter(columns.values())))[0]
        categorical = [self.vocabularies[v.name].lookup(columns[v.name]) for v in self._categorical]
        numeric = [columns[s.name] for s in self._numeric]
        return (
            tf.stack(categorical, axis=1) if categorical else tf.zeros([rows, 0], tf.int64),
            _scaled(self._numeric, tf.stack(numeric, axis=1)) if numeric else tf.zeros([rows, 0], tf.float32),
        )


def _table(vocabulary: Vocabulary) -> Any:
    # An empty table cannot be initialised; the empty string is the missing value, so it may stand in.
    whole = vocabulary.dtype == "int64"
    tokens = vocabulary.tokens or (("0",) if whole else ("",))
    places = [i for i, _ in enumerate(tokens, start=1)] if vocabulary.tokens else [UNKNOWN]
    keys = tf.constant([int(t) for t in tokens] if whole else list(tokens), tf.as_dtype(vocabulary.dtype))
    content = hashlib.sha256("\0".join((vocabulary.dtype, *tokens)).encode()).hexdigest()
    initializer = _Tokens(keys, tf.constant(places, tf.int64), f"vocabulary_{content[:32]}")
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN)


class _Tokens(tf.lookup.KeyValueTensorInitializer):  # type: ignore[misc, name-defined]
    """Names its table after the content.

    TensorFlow would number tables in the order of their making, and tables of one name are one table in a process
    that loads models eagerly: the second model would look its words up in the first one's vocabulary.
    """

    def __init__(self, keys: Any, values: Any, name: str) -> None:
        super().__init__(keys, values)
        self._name = name

    @property
    def _shared_name(self) -> str:
        return str(self._name)


def _scaled(scalings: Sequence[Scaling], columns: Any) -> Any:
    """All columns [n, numeric] at once: an operation a column would cost more than the arithmetic."""
    fill, mean, factor = (
        tf.constant([getattr(scaling, name) for scaling in scalings], tf.float32) for name in ("fill", "mean", "factor")
    )
    return (tf.where(tf.math.is_finite(columns), columns, fill) - mean) * factor
