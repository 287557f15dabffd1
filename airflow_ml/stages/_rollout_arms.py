"""What an arm did, counted: requests, errors, and histograms of latency, probabilities and labels."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from airflow_ml.lifecycle.distributions import Histogram
from airflow_ml.lifecycle.judging import ArmStats
from airflow_ml.stages.context import StageContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

LATENCY_MS = tuple(0.5 * 1.15**n for n in range(84))
"""Limits of the histograms of latency: half a millisecond to a minute, an eighth apart."""

SCORES = tuple(1 / (1 + math.exp(-n / 2)) for n in range(-18, 19))
"""Limits of the histograms of probabilities, even in log-odds: most models answer close to 0 or to 1."""

_RANKED = tuple(1 / (1 + math.exp(-n / 10)) for n in range(-90, 91))
"""The same, finer, for ranks."""

_LABELLED_DAYS = 32
"""Newest partitions of outcomes in which labels of requests are looked for."""


@dataclass
class Arm:
    """Counts of an arm."""

    requests: int = 0
    errors: int = 0
    latency: "list[Array]" = field(default_factory=list)
    scores: "list[Array]" = field(default_factory=list)
    labels: "list[Array]" = field(default_factory=list)

    def add(self, probability: "Array", latency_ms: "Array", label: "Array | None") -> None:
        """Rows; a probability of NaN is an answer that did not come."""
        import numpy as np

        good = np.isfinite(probability)
        self.requests += len(good)
        self.errors += int(len(good) - good.sum())
        self.scores.append(_counts(probability[good], SCORES))
        self.latency.append(_counts(latency_ms[good], LATENCY_MS))
        if label is not None:
            self.labels.append(np.stack([_counts(probability[good & (label == wanted)], _RANKED) for wanted in (1, 0)]))

    def stats(self) -> ArmStats:
        """As a judge takes them."""
        positives, negatives = (_summed([each[n] for each in self.labels], _RANKED) for n in (0, 1))
        return ArmStats(
            requests=self.requests,
            errors=self.errors,
            latency_ms=_summed(self.latency, LATENCY_MS),
            scores=_summed(self.scores, SCORES),
            positives=positives if self.labels else None,
            negatives=negatives if self.labels else None,
        )


@dataclass(frozen=True)
class Labels:
    """The labels that came, by entity."""

    entities: "pa.Array"
    values: "pa.Array"

    @classmethod
    def of(cls, ctx: StageContext) -> Self | None:
        """Of the newest days; None where the model has none yet."""
        import pyarrow as pa
        import pyarrow.dataset as pads

        table = ctx.table("outcomes")
        days = sorted(table.snapshot().rows)[-_LABELLED_DAYS:] if table.exists() else []
        if not days:
            return None
        wanted = pads.field("ds") >= days[0]
        entity = ctx.model.features.entity
        found = table.dataset().to_table(columns=[entity, "label"], filter=wanted).combine_chunks()
        found = found.filter(found["label"].is_valid()).combine_chunks()
        entities = found[entity].cast(pa.string()).combine_chunks()
        return cls(entities, found["label"].cast(pa.int8()).combine_chunks())

    def of_entities(self, entities: "Sequence[str] | pa.Array") -> "Array":
        """1, 0, or −1 where no label came."""
        import pyarrow as pa
        import pyarrow.compute as pc

        place = pc.index_in(pa.array(entities, pa.string()), value_set=self.entities)
        found: Array = self.values.take(place).fill_null(-1).to_numpy(zero_copy_only=False)
        return found


def _counts(values: "Array", limits: tuple[float, ...]) -> "Array":
    import numpy as np

    return np.bincount(np.searchsorted(limits, values, side="left"), minlength=len(limits) + 1)


def _summed(counts: "list[Array]", limits: tuple[float, ...]) -> Histogram:
    total = [int(sum(each[n] for each in counts)) for n in range(len(limits) + 1)]
    return Histogram(limits=limits, counts=tuple(total))
