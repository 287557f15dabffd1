"""`Model`: the one declaration that production DAGs and a data scientist's experiment both run."""

import re
import sys
from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from airflow_ml.spec.approval import DeclaredApproval
from airflow_ml.spec.base import Frozen, Name, Several
from airflow_ml.spec.features import RESERVED, Features, Label
from airflow_ml.spec.gates import EachSlice, Gate
from airflow_ml.spec.monitoring import Monitoring
from airflow_ml.spec.serving import Scoring, Serving
from airflow_ml.spec.source import Files
from airflow_ml.spec.training import Horovod
from airflow_ml.spec.tuning import Tune

_DAG_FILE = re.compile(r"^unusual_prefix_[0-9a-f]+_")


def _declaring_module() -> str:
    """Module in which a `Model(...)` stands: what tells two models of one name apart from one model used twice."""
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(("pydantic", "airflow_ml.spec")):
            # Airflow loads a DAG file under a name with a hash of its path, which differs between deployments.
            return _DAG_FILE.sub("", module)
        frame = frame.f_back  # type: ignore[assignment]
    return ""


class Model(Frozen):
    """A model, from its source to its monitoring. Where it runs is not here: that is the `Platform`.

    Attributes:
        name: Also the prefix of its DAGs and the name of its tables and registered model.
        source: What is known before the event.
        features: How Spark turns it into model inputs.
        label: What is predicted.
        training: How it is trained.
        tune: What is searched for before.
        gates: What it has to pass; at least one, or every model would be released.
        slices: Columns whose values are evaluated one by one; model inputs or columns of the source.
        serving: Online serving.
        approval: Whether a person has to approve a release: ``"required"``; ``"above:0.1"``: canary steps above a tenth
            of the traffic, and the promotion, wait for one; an `Approval`, with a deadline and its default; or None.
        scoring: Nightly scoring.
        monitoring: Drift, performance and retraining.
        start: First partition that exists.
        end: Last partition that will exist; None for a source that goes on.
        owner: Shown in Airflow and in alerts.
        description: Shown at the top of every DAG.
        declared_in: The declaring module; filled in, not part of the spec's hash.
    """

    name: Name
    source: Files
    features: Features
    label: Label
    training: Horovod = Horovod()
    tune: Tune | None = None
    gates: Annotated[tuple[Gate, ...], Several] = Field(min_length=1)
    slices: tuple[str, ...] = ()
    serving: Serving = Serving()
    approval: DeclaredApproval = None
    scoring: Scoring = Scoring()
    monitoring: Monitoring = Monitoring()
    start: date
    end: date | None = None
    owner: str = "airflow"
    description: str = ""
    declared_in: str = Field(default_factory=_declaring_module, repr=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end: {self.end} lies before start {self.start}; swap them")
        if self.source.path == self.label.source.path:
            raise ValueError(
                f"label.source: {self.source.path!r} is the path of the source, too, and outcomes are not known when "
                "the source lands; have them delivered as files of their own"
            )
        entity, known = self.features.entity, self.source.schema_.names
        if entity not in known:
            raise ValueError(
                f"features.entity: {entity!r} is not a column of the source; use one of {', '.join(known)}"
            )
        label = [name for name in known if name.lower() == "label"]
        if label:
            raise ValueError(
                f"source: its column {label[0]!r} has the name of what is predicted, which we add beside its columns; "
                "have it delivered under another name"
            )
        if self.label.source.schema_.key != entity:
            raise ValueError(
                f"label.source: its key is {self.label.source.schema_.key!r}, the entity is {entity!r}; outcomes are "
                "joined by the entity, so declare it as their schema's key"
            )
        strange = [name for name in self.slices if name not in (*self.features.columns, *known)]
        if strange:
            raise ValueError(
                f"slices: {', '.join(map(repr, strange))} is neither a model input nor a column of the source; correct "
                "the name, or declare the column"
            )
        taken = [name for name in self.slices if name.lower() in RESERVED]
        if taken:
            raise ValueError(
                f"slices: {taken[0]!r} is a column that we add to what is evaluated; have the source's column "
                "delivered under another name"
            )
        for gate in self.gates:
            if isinstance(gate, EachSlice) and gate.column not in self.slices:
                raise ValueError(
                    f"gates: each_slice({gate.column!r}) judges what is not evaluated; add {gate.column!r} to `slices`"
                )
        steps = self.serving.canary.steps if self.serving.canary else ()
        if self.approval is not None and self.approval.above and not any(s <= self.approval.above for s in steps):
            raise ValueError(
                f"approval: nothing comes before a person who is asked above {self.approval.above:g} of the traffic; "
                "declare a canary step up to there (serving=Serving(canary=Canary(steps=...))), or 'required'"
            )
        unknown = sorted(set(self.monitoring.columns or ()) - set(self.features.columns))
        if unknown:
            raise ValueError(f"monitoring.columns: {', '.join(unknown)}: no model input has this name")
        return self
