"""Stage ``ingest``: landing files of the source become partitions of the table ``raw``."""

from airflow_ml.lake import LakeTable
from airflow_ml.spec.source import Files
from airflow_ml.stages._event_times import delivered_event_time
from airflow_ml.stages._landing import LandingStage
from airflow_ml.stages.context import StageContext


class Ingest(LandingStage):
    """What is known before the event."""

    name = "ingest"

    def source(self, ctx: StageContext) -> Files:
        """The model's source."""
        return ctx.model.source

    def event_time(self, ctx: StageContext) -> str | None:
        """The model's, where the source delivers it; one that the build makes is checked with the features."""
        return delivered_event_time(ctx.model)

    def table(self, ctx: StageContext) -> LakeTable:
        """``raw``."""
        return ctx.table("raw")


STAGE = Ingest()
