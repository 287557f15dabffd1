"""Seeded samples that do not depend on the order of rows or files: those with the smallest hashes of their keys.

The same rows give the same sample however they are stored, in two passes, with the memory of the keys and the sample.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    Hashes = np.ndarray[Any, Any]

Scan = Callable[[Sequence[str]], "Iterable[pa.RecordBatch]"]
"""Reads columns of a data set, batch by batch; called twice, and both times it gives the same rows."""


@dataclass(frozen=True)
class Sample:
    """Rows that were chosen.

    Attributes:
        frame: The rows, sorted by their hash.
        of: How many there were to choose from.
    """

    frame: "pd.DataFrame"
    of: int


def draw(scan: Scan, keys: Sequence[str], columns: Sequence[str], limit: int, seed: int) -> Sample:
    """Choose at most ``limit`` rows.

    Args:
        scan: Of the data set.
        keys: Columns that name a row together.
        columns: Columns of the sample.
        limit: Rows at most.
        seed: Another seed chooses other rows.
    """
    import numpy as np
    import pandas as pd

    found = [_hashes(batch, keys, seed) for batch in scan(keys)]
    hashes = np.concatenate(found) if found else np.empty(0, np.uint64)
    wanted = list(dict.fromkeys([*keys, *columns]))
    if not len(hashes):
        return Sample(pd.DataFrame(columns=wanted), 0)
    highest = np.partition(hashes, limit - 1)[limit - 1] if len(hashes) > limit else hashes.max()
    parts, kept = [], []
    for batch in scan(wanted):
        own = _hashes(batch, keys, seed)
        chosen = own <= highest
        parts.append(batch.to_pandas()[chosen])
        kept.append(own[chosen])
    order = np.argsort(np.concatenate(kept), kind="stable")
    return Sample(pd.concat(parts, ignore_index=True).iloc[order].reset_index(drop=True), len(hashes))


def _hashes(batch: "pa.RecordBatch", keys: Sequence[str], seed: int) -> "Hashes":
    import pandas as pd

    frame = batch.select(list(keys)).to_pandas().astype(str)
    return pd.util.hash_pandas_object(frame, index=False, hash_key=f"{seed:016d}").to_numpy(dtype="uint64")
