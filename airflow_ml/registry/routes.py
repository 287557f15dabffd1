"""The routing state of a model in its release record: ``<base>/releases/<model>/routing.json``.

A routing is bound to the reign in which it was written: as soon as another version is promoted, or an old one brought
back, it holds no more, and all traffic is on the champion until somebody routes anew. So a promotion is one write, and
a canary of last week cannot wake up. Within its reign it may put another version in the champion's place: the fast way
back, before the champion is changed.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.errors import AirflowMLError, NotReleasable, RoutingMoved
from airflow_ml.lifecycle.routing import Routing
from airflow_ml.registry import champions, records
from airflow_ml.spec import Platform
from airflow_ml.storage import locked

_WHAT, _REMEDY = "routing", "remove the file: all traffic is then on the champion"


def path_of(platform: Platform, model_name: str) -> Path:
    """The file; it need not exist."""
    return Path(platform.base) / "releases" / model_name / "routing.json"


def routing(platform: Platform, model_name: str) -> Routing | None:
    """The routing that holds now; that of a champion that nobody routed is all on it. None without a champion.

    Raises:
        BaseError: A newer package wrote the file, or it is damaged.
    """
    reigns = champions.history(platform, model_name)
    if not reigns:
        return None
    path = path_of(platform, model_name)
    found = _read(path)
    if found is None or found[0] != len(reigns):
        return Routing(stable=reigns[0].version)
    return found[1]


def route(platform: Platform, model_name: str, wanted: Routing, expected: Routing, reason: str = "") -> None:
    """Change the routing, if ``expected`` is the one that holds now.

    Args:
        platform: Says where the records are.
        model_name: Whose traffic.
        wanted: Versions that passed their gates.
        expected: What `routing` gave.
        reason: Kept in the file, for people.

    Raises:
        RoutingMoved: Another routing holds than expected.
        NotReleasable: A version is not registered, or was rejected by its gates.
    """
    for version in wanted.versions:
        champions.release_of(platform, model_name, version).require_passed()
    path = path_of(platform, model_name)
    with locked(path.with_name(".routing.lock")):
        # In this order: should a promotion come between, this routing is of the reign before it, and does not hold.
        reign = len(champions.history(platform, model_name))
        now = routing(platform, model_name)
        where = f"model {model_name}"
        if now is None:
            raise NotReleasable("there is no champion yet", where, "release a version first")
        if now != expected:
            raise RoutingMoved(
                f"the routing is {now.model_dump_json()}, expected was {expected.model_dump_json()}",
                where,
                "look at who else routes this model, then route anew from what holds now",
            )
        records.write(
            path,
            reign=reign,
            routing=wanted.model_dump(mode="json"),
            reason=reason,
            changed_at=datetime.now(UTC).replace(microsecond=0).isoformat(),
        )


def _read(path: Path) -> tuple[int, Routing] | None:
    """Number of the reign, and the routing."""

    def parse(data: dict[str, Any]) -> tuple[int, Routing]:
        try:
            return int(data["reign"]), Routing.from_json(json.dumps(data["routing"]), where=str(path))
        except AirflowMLError as error:
            raise records.damaged(path, error.what, _WHAT, _REMEDY) from error

    return records.read(path, parse, _WHAT, _REMEDY)
