"""What a stage is: it identifies its inputs, and then does its work as a transaction.

`Stage` writes files into its result's folder; `PartitionStage` commits partitions of a table. Both are idempotent: the
first by its result, the second by the fences in the table.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_ml.lake import Attempt, LakeTable
from airflow_ml.lifecycle.errors import CommitConflict
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import FileOutput, JobResult, TableOutput
from airflow_ml.spec import Model
from airflow_ml.stages.code import code_version
from airflow_ml.stages.context import StageContext, log
from airflow_ml.storage import storage_error

if TYPE_CHECKING:
    import pyarrow as pa


TRAINING = ("training",)
"""Parameters of `train`, which the stages after it take, too: they say whose result those look for."""


@dataclass
class Outcome:
    """What a stage did; the runner turns it into a `JobResult`."""

    outputs: dict[str, TableOutput | FileOutput] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    reports: dict[str, FileOutput] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: int = 0


class Stage(ABC):
    """A stage whose result is files and numbers."""

    name: ClassVar[str]
    components: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions are recorded with the result."""
    params: ClassVar[tuple[str, ...]] = ()
    """Names of the request's parameters that this stage takes; any other is refused."""

    def entry_points(self, model: Model) -> tuple[str, ...]:
        """The user's functions that this stage calls: their code is part of the identity."""
        return ()

    @abstractmethod
    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """Everything that decides the result, by name: parts of the spec, inputs, parameters. Cheap, no effects."""

    @abstractmethod
    def run(self, ctx: StageContext) -> Outcome:
        """Do the work. Files go to `ctx.files`; shared progress of attempts to `ctx.state`."""

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """Whether an earlier result with this fingerprint still describes the world."""
        return True

    def require_settled(self, ctx: StageContext) -> None:
        """Make sure that the inputs are those that were identified.

        Looked at before the work, because another process may have held the lock meanwhile, and again before anything
        is published: a result says what it was made from, so it must have been made from that.

        Raises:
            CommitConflict: They changed.
        """
        now = self.identify(replace(ctx, found={}))  # a new look: what was found before is what may have changed
        if now != ctx.identity:
            changed = sorted(
                name for name in now.keys() | ctx.identity.keys() if now.get(name) != ctx.identity.get(name)
            )
            raise CommitConflict(
                f"inputs changed while the stage ran: {', '.join(changed)}",
                where=f"stage {self.name} of {ctx.model.name}",
                remedy="run the stage again; it then starts from the newer inputs",
            )


class PartitionStage(Stage):
    """A stage that commits one partition a day, in one commit for the whole window.

    A partition's fingerprint does not depend on the window: a night inside half a year that was built in bulk is
    current, and is not built again.
    """

    @abstractmethod
    def table(self, ctx: StageContext) -> LakeTable:
        """The table that is committed."""

    @abstractmethod
    def inputs(self, ctx: StageContext) -> dict[date, Any]:
        """For each day of the window, everything that decides its partition."""

    @abstractmethod
    def build(self, ctx: StageContext, days: Sequence[date], attempt: Attempt) -> "tuple[pa.Schema, dict[str, Any]]":
        """Stage the files of these days below ``attempt.folder``.

        Returns:
            Schema of the files without ``ds``, and facts for the result's summary.
        """

    def identify(self, ctx: StageContext) -> dict[str, Any]:
        """One fingerprint a day."""
        return {"partitions": self._fingerprints(ctx, self.inputs(ctx))}

    def require_identified(self, ctx: StageContext, read: Mapping[date, Any]) -> None:
        """Make sure that days were built from what was identified, for a stage that knows what it has read.

        Looking before and after the work does not see an input that changed and was changed back in between.

        Args:
            ctx: Of the execution.
            read: What `inputs` says of each day, of the bytes that were read.

        Raises:
            CommitConflict: One was not.
        """
        changed = [
            day for day, print_ in self._fingerprints(ctx, read).items() if print_ != ctx.identity["partitions"][day]
        ]
        if changed:
            raise CommitConflict(
                f"inputs changed while the stage ran: partitions of {', '.join(changed)}",
                where=f"stage {self.name} of {ctx.model.name}",
                remedy="run the stage again; it then starts from the newer inputs",
            )

    def _fingerprints(self, ctx: StageContext, parts: Mapping[date, Any]) -> dict[str, str]:
        code = code_version(self.entry_points(ctx.model))
        return {day.isoformat(): fingerprint(ctx.model.name, self.name, code, part) for day, part in parts.items()}

    def still_true(self, ctx: StageContext, result: JobResult) -> bool:
        """The table holds the partitions of this result."""
        return not self.table(ctx).stale(_wanted(ctx))

    def run(self, ctx: StageContext) -> Outcome:
        """Build what is stale, and commit it at once."""
        table = self.table(ctx)
        wanted = _wanted(ctx)
        expected = table.fences(wanted)
        # In this order: who commits from newer inputs after the fences were read is found by the commit, and who did
        # before is found here.
        self.require_settled(ctx)
        stale = table.stale(wanted)
        summary: dict[str, Any] = {"built": [day.isoformat() for day in stale], "current": len(wanted) - len(stale)}
        if stale:
            attempt = table.attempt()
            try:
                with ctx.timed("build"):
                    schema, facts = self.build(ctx, stale, attempt)
                self.require_settled(ctx)
                with ctx.timed("commit"):
                    table.commit(
                        attempt,
                        {day: wanted[day] for day in stale},
                        schema,
                        expected=expected,
                        metadata={"stage": self.name, "fingerprint": ctx.fingerprint},
                    )
            except BaseException as error:
                # Nothing refers to these files. After kill -9 they stay behind, unreferenced.
                attempt.discard()
                # Arrow names no file: what could not be written lies here.
                if isinstance(error, OSError) and error.errno and error.filename is None:
                    raise storage_error(error, attempt.folder) from error
                raise
            summary |= facts
        else:
            log.info("all %d partitions are current", len(wanted))
        snapshot = table.snapshot()
        rows = sum(snapshot.rows.get(day, 0) for day in wanted)
        output = TableOutput(
            table=table.name,
            uri=str(table.path),
            version=snapshot.version,
            partitions=tuple(day.isoformat() for day in wanted),
            rows=rows,
        )
        return Outcome(outputs={table.name: output}, rows=rows, summary=summary)


def _wanted(ctx: StageContext) -> dict[date, str]:
    partitions: dict[str, str] = ctx.identity["partitions"]
    return {date.fromisoformat(day): print_ for day, print_ in partitions.items()}
