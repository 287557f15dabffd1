"""Every error that we raise on purpose, as one tree.

A message says what happened, where, and the remedy; a job process carries it to the task as data, so that what a person
reads in the Airflow log is what the stage said.

    AirflowMLError
    ├── SpecError            the declaration is wrong, or changed under a run
    │   ├── NameTaken        another model owns this name in the base
    │   └── SpecChanged      an upstream result was made with another spec
    ├── InputError           what came in cannot be used; nothing was written
    │   ├── BadFile          a landing file: missing, empty, truncated, duplicate rows, header, encoding, type
    │   ├── DataBroken       schema or value skew with severity `fail`
    │   ├── MissingPartition a partition that is needed is not committed
    │   ├── BadTrainingSet   empty, one class, or too few labels
    │   ├── BadFields        an online request that does not fit the signature; it says which fields
    │   └── NotRouted        an online request for an experiment or a version that is not open
    ├── StageError           a stage could not do its work
    │   ├── TrainingFailed   a rank failed
    │   ├── ExportRefused    unknown operator, or parity lost
    │   └── MissingResult    an upstream stage has not run
    ├── ReleaseError
    │   ├── NotReleasable    no gate report bound to this model, or a closed gate
    │   ├── ChampionMoved    compare-and-set failed: somebody else promoted meanwhile
    │   ├── RoutingMoved     compare-and-set failed: somebody else routes this model
    │   ├── RolloutRunning   another version of the model is on its way
    │   └── RolloutMoved     compare-and-set failed: somebody else moved the rollout on
    ├── ServingError         the model server: unreachable, unknown model, wrong answer
    ├── BaseError            the base, or the place of checkpoints: newer format, read-only, disk full, bucket away
    ├── CommitConflict       another writer committed the same partition from other inputs meanwhile
    ├── ClusterError         the Kubernetes API server is away, or refuses
    └── JobFailed            a job ended without a result: killed, crashed, lost
"""

from collections.abc import Mapping
from typing import Any


class AirflowMLError(Exception):
    """An error that says what happened, where, and what to do.

    Args:
        what: What happened, in one sentence.
        where: File, row, table, partition, field or server; empty when `what` says it.
        remedy: What the reader can do now.
        reports: Pages that tell more, as JSON of `FileOutput` by name: an error leaves no result that could name them.
    """

    def __init__(
        self, what: str, where: str = "", remedy: str = "", reports: Mapping[str, dict[str, Any]] | None = None
    ) -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.reports = dict(reports or {})

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. Remedy: {self.remedy}" if self.remedy else text

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` is the inverse."""
        data = {"error": type(self).__name__, "what": self.what, "where": self.where, "remedy": self.remedy}
        return data | ({"reports": self.reports} if self.reports else {})

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "AirflowMLError":
        """The error that a job process wrote; an unknown class becomes a `JobFailed`."""
        kind = _tree().get(str(data.get("error")), JobFailed)
        what, where, remedy = (str(data.get(key, "")) for key in ("what", "where", "remedy"))
        return kind(what or "unknown error", where, remedy, data.get("reports"))


class SpecError(AirflowMLError):
    """The declaration is wrong."""


class NameTaken(SpecError):
    """Another model owns this name in the base."""


class SpecChanged(SpecError):
    """An upstream result was made with another spec."""


class InputError(AirflowMLError):
    """What came in cannot be used; nothing was written."""


class BadFile(InputError):
    """A landing file that is refused."""


class DataBroken(InputError):
    """Schema or value skew with severity `fail`."""


class MissingPartition(InputError):
    """A partition that is needed is not committed."""


class BadTrainingSet(InputError):
    """Empty, one class, or too few labels."""


class BadFields(InputError):
    """An online request that does not fit the model's signature.

    Attributes:
        fields: What is wrong, one entry a field: ``row``, ``field``, ``problem``.
    """

    fields: tuple[dict[str, Any], ...] = ()


class NotRouted(InputError):
    """An online request for an experiment or a version that is not open."""


class StageError(AirflowMLError):
    """A stage could not do its work."""


class TrainingFailed(StageError):
    """A training rank failed."""


class ExportRefused(StageError):
    """The model cannot be exported with equal results."""


class MissingResult(StageError):
    """An upstream stage has not run."""


class ReleaseError(AirflowMLError):
    """A model cannot be released."""


class NotReleasable(ReleaseError):
    """No gate report is bound to this model, or a gate is closed."""


class ChampionMoved(ReleaseError):
    """Somebody else promoted meanwhile."""


class RoutingMoved(ReleaseError):
    """Somebody else changed the routing meanwhile."""


class RolloutRunning(ReleaseError):
    """Another version of the model is on its way to its traffic."""


class RolloutMoved(ReleaseError):
    """Somebody else moved the rollout on meanwhile."""


class ServingError(AirflowMLError):
    """The model server is unreachable, does not know the model, or answers wrongly."""


class BaseError(AirflowMLError):
    """The base folder, or the place of checkpoints, cannot be used."""


class CommitConflict(AirflowMLError):
    """Another writer committed the same partition from other inputs meanwhile."""


class ClusterError(AirflowMLError):
    """The Kubernetes API server is away, or refuses what we ask."""


class JobFailed(AirflowMLError):
    """A job ended without a result."""


def _tree() -> dict[str, type[AirflowMLError]]:
    found: dict[str, type[AirflowMLError]] = {}
    todo: list[type[AirflowMLError]] = [AirflowMLError]
    while todo:
        kind = todo.pop()
        found[kind.__name__] = kind
        todo.extend(kind.__subclasses__())
    return found
