"""A prediction as a line of the spool, and as a row of the table ``online``."""

import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import pyarrow as pa

_encode_features = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_encode_record = json.JSONEncoder(separators=(",", ":")).encode

TABLE = "online"
"""Name of the table in the lake."""


class Record(TypedDict):
    """One row of the table.

    Attributes:
        request_id: Of the request; several rows may share it.
        row: Place in the request.
        entity: What the prediction is about.
        at: When the answer was there, in microseconds of UTC.
        model_version: Who answered, or failed.
        label: Of the version in the model server, or None.
        arm: ``stable``, the name of an arm, ``alpha`` or ``shadow``.
        experiment: Whose arm it is, or None.
        probability: None where there is no answer.
        fallback: ``previous`` or ``default`` where the arm's own version did not answer.
        error: Why it did not.
        latency_ms: From the request to the answer; of a shadow, of its own call.
        inputs: The features as JSON; None where the declaration keeps hashes only.
        inputs_sha256: Of that JSON.
    """

    request_id: str
    row: int
    entity: str
    at: int
    model_version: int
    label: str | None
    arm: str
    experiment: str | None
    probability: float | None
    fallback: str | None
    error: str | None
    latency_ms: float
    inputs: str | None
    inputs_sha256: str


def features_json(features: dict[str, Any]) -> tuple[str, str]:
    """Features as JSON that is the same for equal features, and its hash."""
    text = _encode_features(features)
    return text, sha256(text.encode()).hexdigest()


def line_of(record: Record) -> bytes:
    """A record as a line."""
    return _encode_record(record).encode() + b"\n"


def tables_of(lines: Iterable[bytes]) -> "tuple[dict[date, pa.Table], int]":
    """Rows by day, and how many lines are none: a death or a full disk cut them off, or no column holds what they say.

    Whatever a line holds, it costs no other one: a batch that could not be committed would hold up all that follow.
    """
    import pyarrow as pa

    days: dict[date, list[dict[str, Any]]] = {}
    torn = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            day = datetime.fromtimestamp(record["at"] / 1e6, UTC).date()
            if record.keys() != Record.__annotations__.keys():
                raise ValueError("not all of a record")
        except Exception:
            torn += 1
            continue
        days.setdefault(day, []).append(record)
    tables: dict[date, pa.Table] = {}
    for day, rows in sorted(days.items()):
        whole = _table(rows)
        fit = [whole] if whole is not None else [row for each in rows if (row := _table([each])) is not None]
        torn += len(rows) - sum(table.num_rows for table in fit)
        if fit:
            tables[day] = pa.concat_tables(fit)
    return tables, torn


def _table(rows: list[dict[str, Any]]) -> "pa.Table | None":
    """Rows as a table; None where one of them does not fit into its columns."""
    import pyarrow as pa

    try:
        return pa.Table.from_pylist(rows, schema_of())
    except Exception:  # Arrow has errors of its own, and passes on those of Python's codecs and numbers
        return None


def schema_of() -> "pa.Schema":
    """Of the table, without ``ds``, which is the day of ``at``."""
    import pyarrow as pa

    types = {
        "row": pa.int32(),
        "at": pa.timestamp("us"),
        "model_version": pa.int64(),
        "probability": pa.float32(),
        "latency_ms": pa.float32(),
    }
    return pa.schema([(name, types.get(name, pa.string())) for name in Record.__annotations__])
