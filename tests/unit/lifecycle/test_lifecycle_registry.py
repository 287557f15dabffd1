"""The registry on a real MLflow with SQLite: runs and versions are found again, champions move by compare-and-set."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from airflow_ml.lifecycle.errors import BaseError, ChampionMoved, NotReleasable
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import FileOutput
from airflow_ml.registry import champions, tracking, versions
from airflow_ml.registry.client import client_of
from airflow_ml.spec import Platform
from airflow_ml.storage import sha256
from tests.unit.lifecycle import steps

NAME = "small"


@pytest.fixture
def platform(base: Path) -> Platform:
    return Platform(base=str(base))


def released(platform: Platform, verdict: str = "passed", previous: int | None = None, training: str = "t") -> Release:
    """A recorded release of a new version, with a gate report on disk."""
    folder = Path(platform.base) / "made"
    folder.mkdir(exist_ok=True)
    number = len(champions.releases(platform, NAME)) + 1
    fingerprint = f"fingerprint {number}"
    saved_model = folder / f"saved_model-{number}"
    saved_model.mkdir()
    (saved_model / "saved_model.pb").write_text(f"model {number}")
    run = tracking.start_run(platform, NAME, training)
    version = versions.register(platform, NAME, fingerprint, str(saved_model), run, {"verdict": verdict})
    report = GateReport(
        model=NAME,
        verdict=verdict,  # type: ignore[arg-type]
        gates=(),
        champion=previous,
        servability=None,
        evaluation_sha256="e",
        saved_model_sha256=f"s{number}",
        training_fingerprint=training,
    )
    path = folder / f"gate_report-{version}.json"
    path.write_text(report.model_dump_json())
    nothing = FileOutput(uri=str(folder / "none"), sha256="0")
    release = Release(
        model=NAME,
        version=version,
        verdict=verdict,  # type: ignore[arg-type]
        saved_model=FileOutput(uri=str(folder / "saved_model"), sha256=f"s{number}"),
        gate_report=FileOutput(uri=str(path), sha256=sha256(path)),
        golden=nothing,
        reference=nothing,
        statistics=nothing,
        signature={},
        training_fingerprint=training,
        previous_champion=previous,
        trained_to=date(2013, 1, 30),
        metrics={"roc_auc": 0.8},
    )
    champions.record(platform, release)
    return release


def test_a_run_is_found_by_its_fingerprint_and_opened_again(platform: Platform) -> None:
    first = tracking.start_run(platform, NAME, "f" * 64, {"epochs": 3}, {"from": "here"})
    tracking.log_metrics(platform, first, {"loss": 0.5, "auc": None, "other": float("nan")}, step=1)
    tracking.end_run(platform, first)
    assert client_of(platform).get_run(first).info.status == "FINISHED"
    assert tracking.start_run(platform, NAME, "f" * 64, {"epochs": 3}) == first
    run = client_of(platform).get_run(first)
    assert run.info.status == "RUNNING"
    assert run.data.metrics == {"loss": 0.5}
    assert run.data.params == {"epochs": "3"}
    assert run.data.tags["from"] == "here"
    assert tracking.start_run(platform, NAME, "e" * 64) != first


def test_artifacts_lie_below_the_base(platform: Platform, tmp_path: Path) -> None:
    run = tracking.start_run(platform, NAME, "f" * 64)
    report = tmp_path / "report.html"
    report.write_text("<p>hello</p>")
    tracking.log_artifacts(platform, run, report, "reports")
    (found,) = Path(platform.base, "registry", "artifacts").rglob("report.html")
    assert found.read_text() == "<p>hello</p>"


@pytest.mark.slow
def test_first_use_by_two_processes_at_once_makes_one_schema_and_one_run(tmp_path: Path) -> None:
    found = set(steps.together(steps.start_run, [(str(tmp_path),), (str(tmp_path),)]))
    assert len(found) == 1


def test_a_version_is_found_by_its_fingerprint(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("a model")
    run = tracking.start_run(platform, NAME, "t")

    def register(fingerprint: str, **tags: str) -> int:
        return versions.register(platform, NAME, fingerprint, str(tmp_path / "model"), run, tags)

    first = register("one", verdict="passed")
    assert register("one", verdict="passed", more="1") == first
    assert register("two") == first + 1
    found = client_of(platform).get_model_version(NAME, str(first))
    assert found.tags["more"] == "1"
    assert Path(found.source, "saved_model.pb").read_text() == "a model"


def test_a_registry_that_is_no_database_is_named_with_a_remedy(tmp_path: Path) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_text("this is not a database, and long enough that SQLite looks at it" * 50)
    platform = Platform(base=str(tmp_path), registry=f"sqlite:///{broken}")
    with pytest.raises(BaseError, match=r"the MLflow registry cannot be used: .*not a database") as caught:
        tracking.start_run(platform, NAME, "f" * 64)
    assert caught.value.where == f"sqlite:///{broken}"


def test_reading_the_champion_imports_no_mlflow(platform: Platform) -> None:
    champions.promote(platform, released(platform), expected=None)
    code = (
        "import sys; from airflow_ml.registry import champions; from airflow_ml.spec import Platform\n"
        f"assert champions.champion(Platform(base={platform.base!r}), {NAME!r}).version == 1\n"
        "print(sorted({'mlflow', 'pandas', 'torch', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_champions_follow_each_other_and_aliases_mirror_them(platform: Platform) -> None:
    assert champions.champion(platform, NAME) is None
    assert champions.history(platform, NAME) == ()
    first = released(platform)
    versions.set_challenger(platform, NAME, first.version)
    assert champions.challengers(platform, NAME) == [1]
    champions.promote(platform, first, expected=None, reason="first")
    assert versions.aliases_of(platform, NAME) == {"champion": 1}
    second = released(platform, previous=1)
    assert champions.challengers(platform, NAME) == [2]
    champions.promote(platform, second, expected=1, reason="better")
    assert champions.champion(platform, NAME) == second
    assert versions.aliases_of(platform, NAME) == {"champion": 2}
    assert [(reign.version, reign.previous, reign.reason) for reign in champions.history(platform, NAME)] == [
        (2, 1, "better"),
        (1, None, "first"),
    ]
    assert champions.history(platform, NAME)[0].trained_to == date(2013, 1, 30)
    assert champions.challengers(platform, NAME) == []


def test_promoting_the_champion_again_repairs_the_mirror_and_nothing_else(platform: Platform) -> None:
    first = released(platform)
    champions.promote(platform, first, expected=None)
    before = champions.history(platform, NAME)
    client_of(platform).delete_registered_model_alias(NAME, "champion")
    champions.promote(platform, first, expected=None)
    assert champions.history(platform, NAME) == before
    assert versions.aliases_of(platform, NAME) == {"champion": 1}


def test_the_champion_moves_only_from_the_expected_one(platform: Platform) -> None:
    first, second, third = (released(platform, previous=previous) for previous in (None, 1, 1))
    champions.promote(platform, first, expected=None)
    champions.promote(platform, second, expected=1)
    with pytest.raises(ChampionMoved, match="the champion is version 2, expected was 1"):
        champions.promote(platform, third, expected=1)
    with pytest.raises(ChampionMoved):
        champions.promote(platform, third, expected=None)
    assert champions.history(platform, NAME)[0].version == 2


def test_a_rollback_by_hand_is_not_undone_by_a_run_that_is_cleared(platform: Platform) -> None:
    first, second = released(platform), released(platform, previous=1)
    champions.promote(platform, first, expected=None)
    champions.promote(platform, second, expected=1)
    champions.promote(platform, first, expected=2, by_hand=True)
    with pytest.raises(ChampionMoved, match="it was champion before"):
        champions.promote(platform, second, expected=1)
    assert champions.champion(platform, NAME) == first
    champions.promote(platform, second, expected=1, by_hand=True)
    assert [reign.by_hand for reign in champions.history(platform, NAME)] == [True, True, False, False]


@pytest.mark.slow
def test_of_two_promotions_at_once_one_wins(platform: Platform) -> None:
    one, other = released(platform), released(platform)
    said = steps.together(steps.promote, [(platform.base, release.version) for release in (one, other)])
    assert sorted(said) == ["moved", "promoted"]
    (reign,) = champions.history(platform, NAME)
    assert versions.aliases_of(platform, NAME) == {"champion": reign.version}


def test_the_opponent_of_a_cleared_run_is_the_one_it_had(platform: Platform) -> None:
    first = released(platform, training="january")
    assert champions.challenged(platform, NAME, "january") is None
    champions.promote(platform, first, expected=None)
    assert champions.challenged(platform, NAME, "january") is None
    assert champions.challenged(platform, NAME, "february") == first
    champions.promote(platform, released(platform, previous=1, training="february"), expected=1)
    assert champions.challenged(platform, NAME, "february") == first


def test_a_rejected_version_cannot_be_promoted(platform: Platform) -> None:
    rejected = released(platform, verdict="rejected")
    with pytest.raises(NotReleasable, match="was rejected by its gates"):
        champions.promote(platform, rejected, expected=None)
    assert champions.history(platform, NAME) == ()
    assert champions.challengers(platform, NAME) == []


def test_a_rejected_version_never_rules_even_when_a_person_writes_it_into_the_list(platform: Platform) -> None:
    champions.promote(platform, released(platform), expected=None)
    rejected = released(platform, verdict="rejected")
    path = Path(platform.base) / "releases" / NAME / "champions.json"
    data = json.loads(path.read_text())
    data["champions"][-1]["version"] = rejected.version
    path.write_text(json.dumps(data))
    with pytest.raises(NotReleasable, match="was rejected by its gates"):
        champions.champion(platform, NAME)


def test_a_changed_gate_report_makes_a_version_unusable(platform: Platform) -> None:
    rejected = released(platform, verdict="rejected")
    report = Path(rejected.gate_report.uri)
    report.write_text(report.read_text().replace("rejected", "passed"))
    with pytest.raises(NotReleasable, match="its gate report cannot be trusted"):
        champions.release_of(platform, NAME, rejected.version)
    report.unlink()
    with pytest.raises(NotReleasable, match="the file is gone"):
        champions.release_of(platform, NAME, rejected.version)


@pytest.mark.parametrize("change", [{"verdict": "passed"}, {"training_fingerprint": "another"}])
def test_a_changed_record_does_not_match_its_gate_report(platform: Platform, change: dict[str, str]) -> None:
    rejected = released(platform, verdict="rejected")
    record = Path(platform.base) / "releases" / NAME / f"{rejected.version}.json"
    record.unlink()
    champions.record(platform, rejected.model_copy(update=change))
    with pytest.raises(NotReleasable, match="about another model"):
        champions.release_of(platform, NAME, rejected.version)


@pytest.mark.parametrize("text", ["", "[", "null", '{"format": 1}', '{"format": 1, "champions": [{}]}'])
def test_a_damaged_list_of_champions_is_named_with_a_remedy(platform: Platform, text: str) -> None:
    champions.promote(platform, released(platform), expected=None)
    path = Path(platform.base, "releases", NAME, "champions.json")
    path.write_text(text)
    with pytest.raises(BaseError, match=r"the record is damaged.*Remedy: restore the file") as refused:
        champions.champion(platform, NAME)
    assert refused.value.where == str(path)


def test_the_record_of_a_newer_package_is_refused_and_not_called_damaged(platform: Platform) -> None:
    release = released(platform)
    path = Path(platform.base, "releases", NAME, f"{release.version}.json")
    newer = json.loads(path.read_text()) | {"format": 2, "a_field_of_tomorrow": 1}
    path.write_text(json.dumps(newer))
    for look in (
        lambda: champions.release_of(platform, NAME, release.version),
        lambda: champions.releases(platform, NAME),
        lambda: champions.record(platform, release),
    ):
        with pytest.raises(BaseError, match=r"format 2; this package knows 1\. Remedy: upgrade airflow-ml"):
            look()
    assert json.loads(path.read_text()) == newer


def test_a_record_never_changes(platform: Platform) -> None:
    release = released(platform)
    champions.record(platform, release)
    with pytest.raises(NotReleasable, match="recorded with other content"):
        champions.record(platform, release.model_copy(update={"previous_champion": 7}))


def test_an_unknown_version_names_those_there_are(platform: Platform) -> None:
    released(platform)
    with pytest.raises(NotReleasable, match=r"choose one of the registered versions \(1\)"):
        champions.release_of(platform, NAME, 9)
