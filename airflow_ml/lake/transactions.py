"""What is written to a table's log: partitions replaced by staged files, with their fences, in one transaction.

Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (add actions, transaction identifiers)
"""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lake.attempts import PARTITION, Attempt
from airflow_ml.lake.schemas import evolve
from airflow_ml.lifecycle.fingerprints import fence

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


def fences(table: "DeltaTable", days: Iterable[date]) -> dict[date, int | None]:
    """The fence of each day's partition; None where it was never committed."""
    return {day: table.transaction_version(_app_id(day)) for day in days}


def create(path: Path, schema: "pa.Schema") -> None:
    """Make a table, without rows, if it is not there."""
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    # `ignore` still races in the log: losing that race means that the table is there.
    with contextlib.suppress(DeltaError):
        DeltaTable.create(
            str(path), schema.append(pa.field(PARTITION, pa.date32())), mode="ignore", partition_by=[PARTITION]
        )


def overwrite(
    table: "DeltaTable",
    path: Path,
    attempt: Attempt,
    fingerprints: Mapping[date, str],
    schema: "pa.Schema",
    metadata: Mapping[str, str],
) -> None:
    """Replace partitions by an attempt's files, or raise when anybody has committed since the table was loaded.

    Args:
        table: As it was looked at.
        path: Its folder.
        attempt: Staged files; a day without files becomes an empty partition.
        fingerprints: Day to fingerprint of what it was made from: the partitions that are replaced.
        schema: Of the staged files, without ``ds``.
        metadata: Shown in the table's history.
    """
    from deltalake.transaction import (
        AddAction,
        CommitProperties,
        PostCommitHookProperties,
        RemoveAction,
        Transaction,
    )

    evolve(table, schema, path)
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            path=str(file.relative_to(path)),
            size=file.stat().st_size,
            partition_values={PARTITION: day.isoformat()},
            modification_time=int(file.stat().st_mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": _rows(file)}),
        )
        for day, file in attempt.files()
    ]
    now_ms = int(time.time() * 1000)
    table.create_write_transaction(
        actions,
        mode="overwrite",
        schema=table.schema(),
        partition_by=[PARTITION],
        partition_filters=[(PARTITION, "in", [day.isoformat() for day in sorted(fingerprints)])],
        commit_properties=CommitProperties(
            custom_metadata=dict(metadata),
            # No silent retry: a concurrent commit must send us back to look at the fences.
            max_commit_retries=0,
            app_transactions=[
                Transaction(_app_id(day), fence(print_), now_ms) for day, print_ in sorted(fingerprints.items())
            ],
        ),
        # Old log entries are the lineage of pinned training sets: never cleaned up behind a user's back.
        post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False),
    )


def _app_id(day: date) -> str:
    return f"{PARTITION}={day.isoformat()}"


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
