"""Schema evolution of a table: new columns are added, nothing is dropped, a changed type is refused."""

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ml.lifecycle.errors import BaseError

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


def evolve(table: "DeltaTable", schema: "pa.Schema", path: Path) -> None:
    """Make the table able to hold files of this schema.

    Older partitions read null in a new column, newer ones read null in a column that the files no longer have.

    Raises:
        BaseError: A column changed its type.
    """
    import pyarrow as pa
    from deltalake import Schema
    from deltalake.schema import Field

    # Through Delta's types and back: Delta knows no large strings, nanoseconds or unsigned integers.
    wanted = pa.schema(Schema.from_arrow(schema))
    have = pa.schema(table.schema())
    changed = [field for field in wanted if field.name in have.names and have.field(field.name).type != field.type]
    if changed:
        names = ", ".join(
            f"{f.name} ({have.field(f.name).type} in the table, {f.type} in the new files)" for f in changed
        )
        raise BaseError(
            f"a column changed its type: {names}",
            where=f"table {path}",
            remedy="rename the column, or move the table's folder away and rebuild it from its first partition",
        )
    new = [Field.from_arrow(field.with_nullable(True)) for field in wanted if field.name not in have.names]
    if new:
        table.alter.add_columns(new)
