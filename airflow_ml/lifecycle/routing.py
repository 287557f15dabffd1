"""Who is answered by which version: the routing state of a model as a value, and the split that it means.

An entity stays where it is. The arms are asked in their order, and each takes its share of those whom the arms before
it left: those whose hash, of the arm and the entity alone, lies below a limit. The limit rises with the weight, so
when an arm grows, nobody who was in it leaves it; and no two arms, rollouts or models pick the same people.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from airflow_ml.lifecycle.errors import NotRouted, SpecError
from airflow_ml.spec.base import Frozen, Name

STABLE = "stable"
"""Name of the arm that takes what no other arm does: the champion."""

ALPHA = "alpha"
"""Name of the arm of requests that ask for an open version by its number."""

SHADOW = "shadow"
"""Name of the arm of copies, whose answers nobody waits for."""

_ROUNDING = 1e-9
"""Ten arms of 0.1 are a whole."""


def _free(name: str) -> str:
    if name in (STABLE, ALPHA, SHADOW):
        raise ValueError(f"{name!r} is an arm that every routing has; give this one another name, as 'canary'")
    return name


Version = Annotated[int, Field(ge=1)]
"""Registry version."""

ArmName = Annotated[Name, AfterValidator(_free)]


class Arm(Frozen):
    """A share of the traffic.

    Attributes:
        name: In metrics and in the prediction log.
        version: Who answers.
        weight: Share, from 0 to 1.
    """

    name: ArmName
    version: Version
    weight: float = Field(ge=0, le=1, allow_inf_nan=False)


class Experiment(Frozen):
    """A split that requests name, apart from all others.

    Attributes:
        name: As a request names it.
        arms: Two at least; their weights are a whole.
    """

    name: Name
    arms: tuple[Arm, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _distinct("arms", (arm.name for arm in self.arms))
        total = math.fsum(arm.weight for arm in self.arms)
        if abs(total - 1) > _ROUNDING:
            raise ValueError(f"experiment {self.name!r}: the weights sum to {total:g}; make it 1")
        return self


class Routing(Frozen):
    """Which versions a gateway asks, and for whom.

    Attributes:
        stable: Takes what `arms` leave.
        arms: Shares that go elsewhere, as a canary.
        shadow: Versions that get a copy of every request of `stable` and `arms`.
        experiments: Splits for the requests that name them.
        alpha: Versions that a request may ask for by number.
    """

    stable: Version
    arms: tuple[Arm, ...] = ()
    shadow: tuple[Version, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    alpha: tuple[Version, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _distinct("arms", (arm.name for arm in self.arms))
        _distinct("experiments", (experiment.name for experiment in self.experiments))
        _distinct("shadow", self.shadow)
        _distinct("alpha", self.alpha)
        total = math.fsum(arm.weight for arm in self.arms)
        if total > 1 + _ROUNDING:
            raise ValueError(f"arms: the weights sum to {total:g}; at most 1, the rest is {STABLE!r}")
        if self.stable in self.shadow:
            raise ValueError(f"shadow: version {self.stable} is stable and answers already; take it out")
        return self

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that can be asked, `stable` first."""
        others = [arm.version for arm in self.arms]
        others += [arm.version for experiment in self.experiments for arm in experiment.arms]
        return tuple(dict.fromkeys((self.stable, *others, *self.shadow, *self.alpha)))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "") -> "Routing":
        """Read the JSON form.

        Raises:
            SpecError: It is no routing; the first field that is wrong, and why.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            what = first["msg"].removeprefix("Value error, ")
            raise SpecError(
                f"not a routing: {f'{field}: ' if field else ''}{what}",
                where=where,
                remedy='write it like {"stable": 3, "arms": [{"name": "canary", "version": 4, "weight": 0.1}]}',
            ) from error


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers a request.

    Attributes:
        arm: Name of the arm.
        version: Who is asked.
        experiment: Whose arm it is, or None.
    """

    arm: str
    version: int
    experiment: str | None = None


def route(
    routing: Routing, model: str, entity: str, *, experiment: str | None = None, alpha: int | None = None
) -> Route:
    """Who answers for an entity. Equal arguments give the same answer in every process.

    Args:
        routing: The state.
        model: Name; the same entities are not the canaries of every model.
        entity: Key of what the prediction is about.
        experiment: That the request names.
        alpha: Version that the request asks for.

    Raises:
        NotRouted: No such experiment, or the version is not open; or both are asked for.
    """
    if alpha is not None:
        return _alpha(routing, model, alpha, experiment)
    if experiment is not None:
        found = next((each for each in routing.experiments if each.name == experiment), None)
        if found is None:
            raise NotRouted(
                f"no experiment {experiment!r}",
                where=f"model {model}",
                remedy=f"running: {_listed(each.name for each in routing.experiments)}",
            )
        # Without the version: an arm that gets a newer one keeps its entities.
        salts = [f"{model}/{found.name}/{arm.name}" for arm in found.arms]
        arm = _picked(found.arms, salts, entity) or found.arms[-1]
        return Route(arm.name, arm.version, found.name)
    # With the version: the next rollout's canaries are others than this one's.
    salts = [f"{model}/{arm.name}/{arm.version}" for arm in routing.arms]
    picked = _picked(routing.arms, salts, entity)
    return Route(STABLE, routing.stable) if picked is None else Route(picked.name, picked.version)


def _alpha(routing: Routing, model: str, version: int, experiment: str | None) -> Route:
    if experiment is not None:
        raise NotRouted(
            "an experiment and a version are asked for at once", where=f"model {model}", remedy="ask for one of them"
        )
    if version not in routing.alpha:
        raise NotRouted(
            f"version {version} is not open to requests that ask for it",
            where=f"model {model}",
            remedy=f"open: {_listed(map(str, routing.alpha))}",
        )
    return Route(ALPHA, version)


def _picked(arms: Sequence[Arm], salts: Sequence[str], entity: str) -> Arm | None:
    """The arm that takes the entity; None leaves it."""
    left = 1.0
    for arm, salt in zip(arms, salts, strict=True):
        if arm.weight > 0 and (arm.weight > left - _ROUNDING or _uniform(salt, entity) < arm.weight / left):
            return arm
        left -= arm.weight
    return None


def _uniform(salt: str, entity: str) -> float:
    """A number from 0 up to 1 that is the entity's for ever."""
    digest = hashlib.blake2b(f"{salt}\0{entity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _distinct(field: str, values: Iterable[object]) -> None:
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{field}: {', '.join(twice)} named twice")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
