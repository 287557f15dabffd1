"""Entry points of the models of these tests."""

import pyarrow as pa
import pyarrow.compute as pc


def positive(outcomes: pa.Table) -> pa.ChunkedArray:
    """Whether ``n`` is above zero."""
    return pc.greater(outcomes["n"], 0)


def divided(outcomes: pa.Table) -> pa.ChunkedArray:
    """Fails as user's code does."""
    raise ZeroDivisionError("no flights")
