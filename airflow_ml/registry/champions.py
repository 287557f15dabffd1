"""Which version production may load: release records, the champion, and who was champion before.

The one truth lies in small files below ``<base>/releases/<model>/``: ``<version>.json`` for each registered version,
and ``champions.json``, the list of champions whose last entry rules. An MLflow alias can be moved by anybody with a
click, without gates and without compare-and-set, so the aliases ``champion`` and ``challenger`` are a mirror for
people: written after the record, and repaired by the next `promote`. Reading imports no MLflow, so a night is scored
without paying for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from airflow_ml.lifecycle.errors import AirflowMLError, ChampionMoved, NotReleasable
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.registry import records
from airflow_ml.registry.versions import mirror_champion
from airflow_ml.spec import Platform
from airflow_ml.spec.base import Frozen
from airflow_ml.storage import locked, verify


class Champion(Frozen):
    """One reign.

    Attributes:
        version: Registry version.
        release: `Release.id`.
        previous: Version that it replaced, or None.
        trained_to: End of the training window: its age in data time.
        roc_auc: On its own test split.
        by_hand: Whether a person chose it.
        reason: Why it became champion.
        promoted_at: Clock time, for people; nothing is decided by it.
    """

    version: int
    release: str
    previous: int | None
    trained_to: date | None
    roc_auc: float | None
    by_hand: bool
    reason: str
    promoted_at: datetime


def champion(platform: Platform, model_name: str) -> Release | None:
    """The release that scores and serves, or None.

    Raises:
        NotReleasable: Its gate report is gone or changed, or its gates are closed.
    """
    reigns = _reigns(platform, model_name)
    if not reigns:
        return None
    release = release_of(platform, model_name, reigns[-1].version)
    # The list of champions is a file that a person can edit; what was rejected never scores, whoever wrote it there.
    release.require_passed()
    return release


def challenged(platform: Platform, model_name: str, training_fingerprint: str) -> Release | None:
    """Whom a model of this training has to beat: the champion, or its predecessor when the model *is* the champion.

    So a cleared run is judged against the opponent that it had, and finds its own results.

    Raises:
        NotReleasable: The opponent's gate report is gone or changed.
    """
    now = champion(platform, model_name)
    if now is None or now.training_fingerprint != training_fingerprint:
        return now
    return None if now.previous_champion is None else release_of(platform, model_name, now.previous_champion)


def release_of(platform: Platform, model_name: str, version: int) -> Release:
    """The record of a registered version, passed or rejected, after checking it against its gate report.

    Raises:
        NotReleasable: No such version; or the gate report is gone, changed, or about another model.
        BaseError: A newer package wrote the record, or it is damaged.
    """
    path = _folder(platform, model_name) / f"{version}.json"
    where = f"model {model_name}, version {version}"
    release = _read(path)
    if release is None:
        known = ", ".join(str(release.version) for release in releases(platform, model_name)) or "none"
        raise NotReleasable(
            "no such version is registered",
            where=where,
            remedy=f"choose one of the registered versions ({known}), or train the model",
        )
    remedy = "restore the file from a backup, or train again: a release is only what its gates have seen"
    try:
        report = GateReport.model_validate_json(
            verify(release.gate_report.uri, release.gate_report.sha256).read_bytes()
        )
    except (AirflowMLError, ValidationError) as error:
        raise NotReleasable(f"its gate report cannot be trusted: {error}", where=where, remedy=remedy) from error
    bound = (report.model, report.verdict, report.saved_model_sha256, report.training_fingerprint)
    if bound != (release.model, release.verdict, release.saved_model.sha256, release.training_fingerprint):
        raise NotReleasable("its gate report is about another model", where=where, remedy=remedy)
    return release


def releases(platform: Platform, model_name: str) -> tuple[Release, ...]:
    """All registered versions, oldest first, as recorded: for lists, not for deploying."""
    paths = [path for path in _folder(platform, model_name).glob("*.json") if path.stem.isdigit()]
    found = [release for path in paths if (release := _read(path)) is not None]
    return tuple(sorted(found, key=lambda release: release.version))


def record(platform: Platform, release: Release) -> None:
    """Write the record of a registered version; a record that exists must be the same.

    Raises:
        NotReleasable: The version is recorded with other content.
    """
    path = _folder(platform, release.model) / f"{release.version}.json"
    with _alone(platform, release.model):
        if _read(path) not in (None, release):
            raise NotReleasable(
                "the version is recorded with other content",
                where=str(path),
                remedy="a version never changes; clear the run from its gates, which registers another one",
            )
        records.write(path, **release.model_dump(mode="json"))


def challengers(platform: Platform, model_name: str) -> list[int]:
    """Versions that passed after the champion did and have not been champion, newest first."""
    reigns = _reigns(platform, model_name)
    now = reigns[-1].version if reigns else 0
    waiting = [r.version for r in releases(platform, model_name) if r.verdict == "passed" and r.version > now]
    return sorted(set(waiting) - {reign.version for reign in reigns}, reverse=True)


def history(platform: Platform, model_name: str) -> tuple[Champion, ...]:
    """All reigns, the newest first: the first one is the champion's.

    Raises:
        BaseError: A newer package wrote the file, or it is damaged.
    """
    return _reigns(platform, model_name)[::-1]


def ruling(platform: Platform, model_name: str) -> int | None:
    """The champion's version, as recorded; None before the first one."""
    reigns = _reigns(platform, model_name)
    return reigns[-1].version if reigns else None


def before(platform: Platform, model_name: str) -> int | None:
    """Who was champion before the one that rules was so for the first time; None if nobody was.

    So whoever is brought back is not left for the version that it was brought back from.
    """
    reigns = _reigns(platform, model_name)
    return next((reign.previous for reign in reigns if reign.version == reigns[-1].version), None)


def _reigns(platform: Platform, model_name: str) -> tuple[Champion, ...]:
    path = _folder(platform, model_name) / "champions.json"
    return records.read(path, lambda data: tuple(map(Champion.model_validate, data["champions"]))) or ()


def promote(
    platform: Platform, release: Release, expected: int | None, reason: str = "", by_hand: bool = False
) -> Champion:
    """Make a release the champion, if ``expected`` is the champion now. Promoting the champion again changes nothing.

    Args:
        platform: Says where the records are.
        release: A recorded version that passed.
        expected: Version that has to be champion now; None for no champion.
        reason: Kept in the history.
        by_hand: A person may bring back a former champion; an automatic run may not, or a run that is cleared after a
            rollback would undo it.

    Returns:
        The reign that the release has now.

    Raises:
        NotReleasable: The gates are closed, or the record does not hold.
        ChampionMoved: Another version is champion than expected, or this one was replaced meanwhile.
    """
    release_of(platform, release.model, release.version).require_passed()
    with _alone(platform, release.model):
        reigns = _reigns(platform, release.model)
        now = reigns[-1].version if reigns else None
        if now != release.version:
            _require_movable(release, reigns, expected, by_hand)
            reign = Champion(
                version=release.version,
                release=release.id,
                previous=now,
                trained_to=release.trained_to,
                roc_auc=release.metrics.get("roc_auc"),
                by_hand=by_hand,
                reason=reason,
                promoted_at=datetime.now(UTC).replace(microsecond=0),
            )
            reigns = (*reigns, reign)
            path = _folder(platform, release.model) / "champions.json"
            records.write(path, champions=[entry.model_dump(mode="json") for entry in reigns])
        mirror_champion(platform, release.model, release.version)
    return reigns[-1]


def require_movable(platform: Platform, release: Release, expected: int | None, by_hand: bool = False) -> None:
    """Raise what `promote` would raise now, before anything is deployed for it."""
    reigns = _reigns(platform, release.model)
    if not reigns or reigns[-1].version != release.version:
        _require_movable(release, reigns, expected, by_hand)


def _require_movable(release: Release, reigns: tuple[Champion, ...], expected: int | None, by_hand: bool) -> None:
    now = reigns[-1].version if reigns else None
    remedy = f"look at both versions, then release version {release.version} by hand if it is the better one"
    where = f"model {release.model}, version {release.version}"
    if now != expected:
        raise ChampionMoved(f"the champion is version {now}, expected was {expected}: somebody promoted", where, remedy)
    if not by_hand and any(reign.version == release.version for reign in reigns):
        raise ChampionMoved(f"it was champion before and was replaced by version {now}", where, remedy)


def _read(path: Path) -> Release | None:
    return records.read(
        path, lambda data: Release.model_validate({name: fact for name, fact in data.items() if name != "format"})
    )


def _folder(platform: Platform, model_name: str) -> Path:
    return Path(platform.base) / "releases" / model_name


@contextmanager
def _alone(platform: Platform, model_name: str) -> Iterator[None]:
    with locked(_folder(platform, model_name) / ".lock"):
        yield
