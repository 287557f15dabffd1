"""Stage ``ingest``: landing files of the source become partitions of the table ``raw``."""

from airflow_ml.lake import LakeTable
from airflow_ml.spec.source import Files
from airflow_ml.stages._landing import LandingStage
from airflow_ml.stages.context import StageContext


class Ingest(LandingStage):
    """What is known before the event."""

    name = "ingest"

    def source(self, ctx: StageContext) -> Files:
        """The model's source."""
        return ctx.model.source

    def table(self, ctx: StageContext) -> LakeTable:
        """``raw``."""
        return ctx.table("raw")


STAGE = Ingest()
