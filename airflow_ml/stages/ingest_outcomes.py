"""Stage ``ingest_outcomes``: landing files of the outcomes become partitions of the table ``outcomes``, with the label.

A partition is named by the day of its events, not by the day on which their outcomes landed.
"""

from typing import TYPE_CHECKING

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.spec import Model
from airflow_ml.spec.source import Files
from airflow_ml.stages._landing import LandingStage
from airflow_ml.stages.code import called, load
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    import pyarrow as pa

LABEL = "label"


class IngestOutcomes(LandingStage):
    """What happened, and what it means."""

    name = "ingest_outcomes"

    def entry_points(self, model: Model) -> tuple[str, ...]:
        """The label function."""
        return (model.label.compute,)

    def source(self, ctx: StageContext) -> Files:
        """The label's source."""
        return ctx.model.label.source

    def table(self, ctx: StageContext) -> LakeTable:
        """``outcomes``."""
        return ctx.table("outcomes")

    def finish(self, ctx: StageContext, table: "pa.Table") -> "pa.Table":
        """Add the label.

        Raises:
            SpecError: The label function failed, or did not return a boolean for each row.
        """
        import pyarrow as pa

        entry_point = ctx.model.label.compute
        function = load(entry_point)
        with called(entry_point):
            label = function(table)
        if not isinstance(label, pa.Array | pa.ChunkedArray) or len(label) != len(table) or label.type != pa.bool_():
            got = f"{label.type}, {len(label)} rows" if hasattr(label, "type") else type(label).__name__
            raise SpecError(
                f"the label is not one boolean for each of {len(table)} rows, but {got}",
                where=f"entry point {entry_point}",
                remedy="return a pyarrow array of nullable booleans, as long as the table",
            )
        return table.append_column(LABEL, label)


STAGE = IngestOutcomes()
