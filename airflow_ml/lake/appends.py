"""Appending to a table: batches of rows that a writer numbers, each committed exactly once, and few files for many.

Where partitions are made anew from their inputs, `LakeTable.commit` replaces them; a log has no inputs to be made from
again. So a batch carries its writer and its number as a Delta app transaction: a batch that was committed by a process
that died before it could say so is found in the table, and is not committed twice.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (transaction identifiers)
"""

import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, CommitProperties, PostCommitHookProperties, RemoveAction, Transaction

from airflow_ml.lake import transactions
from airflow_ml.lake.attempts import PARTITION
from airflow_ml.lake.schemas import evolve
from airflow_ml.lake.table import LakeTable
from airflow_ml.lifecycle.errors import BaseError

log = logging.getLogger(__name__)

_RETRIES = 20
"""Appends do not conflict; what is tried again is the race for the number of the next version."""

_MET_A_CHANGE = 10
"""Tries that meet a change of the table's columns, or its making by somebody else, before that is the error."""

_MOST_TEXT = 32
"""Characters of a text's bound in the log."""

_MANY = 8
"""Files of a day that are worth a rewrite."""

_KEPT_HOURS = 7 * 24
"""Files that a rewrite replaced, for readers that opened the table before it."""


def append(table: LakeTable, rows: Mapping[date, pa.Table], writer: str, number: int) -> bool:
    """Append a batch, unless it was appended before.

    Args:
        table: Created if it is not there; new columns are added to it.
        rows: By partition, without ``ds``; all of one schema.
        writer: Who numbers the batches.
        number: Higher than that of every batch of this writer that was appended.

    Returns:
        Whether it was appended now.

    Raises:
        BaseError: It cannot be written; nothing was appended.
    """
    tries = 0
    while True:
        try:
            return _append(table, rows, writer, number)
        except (DeltaError, OSError) as error:
            tries += 1
            # Of a failed commit: somebody made the table, or gave it a column, since we looked. What is asked has not
            # changed.
            if not isinstance(error, CommitFailedError) or tries == _MET_A_CHANGE:
                raise BaseError(
                    f"cannot append: {error}",
                    where=str(table.path),
                    remedy="free space or make the base writable, then retry",
                ) from error
        time.sleep(0.05 * tries)


def _append(table: LakeTable, rows: Mapping[date, pa.Table], writer: str, number: int) -> bool:
    schema = next(iter(rows.values())).schema
    attempt = None
    try:
        if not table.exists():
            transactions.create(table.path, schema)
        if _last(table, writer) >= number:
            return False
        delta = DeltaTable(str(table.path))
        evolve(delta, schema, table.path)
        attempt = table.attempt()
        actions: list[AddAction | RemoveAction] = []
        for day, content in sorted(rows.items()):
            path = attempt.partition(day) / "part-00000.parquet"
            pq.write_table(content, path)
            actions.append(
                AddAction(
                    path=str(path.relative_to(table.path)),
                    size=path.stat().st_size,
                    partition_values={PARTITION: day.isoformat()},
                    modification_time=int(path.stat().st_mtime * 1000),
                    data_change=True,
                    stats=json.dumps(_stats(content)),
                )
            )
        delta.create_write_transaction(
            actions,
            mode="append",
            schema=delta.schema(),
            partition_by=[PARTITION],
            commit_properties=CommitProperties(
                max_commit_retries=_RETRIES, app_transactions=[Transaction(writer, number, int(time.time() * 1000))]
            ),
            # Nothing pins a version of a log: the log of its commits need not grow for ever.
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=True),
        )
    except (DeltaError, OSError):
        if attempt is not None:
            # What comes after the commit can fail, too: then the files are the table's.
            if _last(table, writer) == number:
                return True
            attempt.discard()
        raise
    return True


def compact(table: LakeTable) -> list[date]:
    """Rewrite the many small files of a day as few, and remove what earlier rewrites replaced.

    Appends go on beside it: what comes while a day is rewritten stays as it is.

    Args:
        table: It need not exist.

    Returns:
        The days that were rewritten; who does it at the same time may win, and then there are none.
    """
    if not table.exists():
        return []
    try:
        delta = DeltaTable(str(table.path))
        actions = pa.table(delta.get_add_actions(flatten=True))[f"partition.{PARTITION}"].to_pylist()
        days = sorted(day for day, files in Counter(actions).items() if files > _MANY)
        for day in days:
            delta.optimize.compact(partition_filters=[(PARTITION, "=", day.isoformat())])
        if days:
            delta.vacuum(retention_hours=_KEPT_HOURS, dry_run=False)
    except (DeltaError, OSError) as error:
        log.info("not compacted: %s", error)
        return []
    return days


def _stats(content: pa.Table) -> dict[str, Any]:
    """What a reader needs to pass a file over: nulls and range of each column.

    Of each, or of none: where one column has a range, deltalake compares those without with null, and a filter on them
    finds nothing.
    """
    found = {name: pc.min_max(content[name]).as_py() for name in content.schema.names}
    known = {name: each for name, each in found.items() if each["min"] is not None}
    if any(isinstance(bound, float) and not math.isfinite(bound) for each in known.values() for bound in each.values()):
        return {"numRecords": content.num_rows}
    return {
        "numRecords": content.num_rows,
        "nullCount": {name: content[name].null_count for name in found},
        "minValues": {name: _bound(each["min"]) for name, each in known.items()},
        "maxValues": {name: _bound(each["max"], up=True) for name, each in known.items()},
    }


def _bound(value: Any, up: bool = False) -> Any:
    """A bound as JSON; of a long text its beginning, and after that, upwards, what no text is above."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        return value[:_MOST_TEXT] + (chr(sys.maxunicode) if up else "")
    return value


def _last(table: LakeTable, writer: str) -> int:
    """Number of the newest batch of a writer; -1 before the first."""
    found = DeltaTable(str(table.path)).transaction_version(writer)
    return -1 if found is None else found
