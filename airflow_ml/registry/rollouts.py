"""The rollout of a model in its release record: ``<base>/releases/<model>/rollout.json``, and those that ended.

Whoever moves it on replaces the file, if it is still at the revision that was read. What a rollout does to the world is
done under the same lock, by who holds the newest revision: so a run that was overtaken, by a person who rolls back or
by a second run, cannot undo with a late write what was decided meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_ml.lifecycle.errors import RolloutMoved
from airflow_ml.lifecycle.rollout import Rollout
from airflow_ml.registry import records
from airflow_ml.spec import Platform
from airflow_ml.storage import locked, write_atomically

_SHOWN = 20
"""Rollouts that ended, in lists for people; all of them are kept."""


def path_of(platform: Platform, model_name: str) -> Path:
    """The file; it need not exist."""
    return Path(platform.base) / "releases" / model_name / "rollout.json"


def current(platform: Platform, model_name: str) -> Rollout | None:
    """The open rollout, or the one that ended last; None if there was none.

    Raises:
        BaseError: A newer package wrote the file, or it is damaged.
    """
    return _read(path_of(platform, model_name))


def ended(platform: Platform, model_name: str) -> tuple[Rollout, ...]:
    """The rollouts that ended, newest first."""
    folder = path_of(platform, model_name).with_name("rollouts")
    newest = sorted(folder.glob("*.json"), reverse=True)[:_SHOWN]
    return tuple(found for found in map(_read, newest) if found is not None)


def save(platform: Platform, new: Rollout) -> Rollout:
    """Replace the record by its next revision.

    Args:
        platform: Says where it is.
        new: Made from the revision before it.

    Returns:
        What is kept now.

    Raises:
        RolloutMoved: The record is at another revision.
    """
    path = path_of(platform, new.model)
    with _alone(platform, new.model):
        _require(path, new, new.revision - 1)
        text = records.text(rollout=new.model_dump(mode="json"))
        if not new.open:
            # First: one that is in the history and still open in the file is ended again by its next run.
            write_atomically(path.with_name("rollouts") / f"{new.revision:08}.json", text)
        write_atomically(path, text)
    return new


@contextmanager
def held(platform: Platform, rollout: Rollout) -> Iterator[None]:
    """Change the world as this revision wants it, while nobody can write another.

    Raises:
        RolloutMoved: The record is at another revision: nothing may be done for this one any more.
    """
    with _alone(platform, rollout.model):
        _require(path_of(platform, rollout.model), rollout, rollout.revision)
        yield


@contextmanager
def _alone(platform: Platform, model_name: str) -> Iterator[None]:
    with locked(path_of(platform, model_name).with_name(".rollout.lock")):
        yield


def _require(path: Path, rollout: Rollout, revision: int) -> None:
    found = _read(path)
    now = -1 if found is None else found.revision
    if now != revision:
        raise RolloutMoved(
            f"the rollout is at revision {now} ({'none' if found is None else found.state}), expected was {revision}",
            where=f"model {rollout.model}, version {rollout.version}",
            remedy="run the stage again: it goes on from what is recorded",
        )


def _read(path: Path) -> Rollout | None:
    return records.read(path, lambda data: Rollout.model_validate(data["rollout"]))
