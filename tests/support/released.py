"""Release records as `register` and `release` leave them, without an MLflow that nobody asks here."""

from datetime import UTC, datetime
from pathlib import Path

from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.releases import Release, Verdict
from airflow_ml.lifecycle.requests import FileOutput
from airflow_ml.registry import champions, records
from airflow_ml.spec import Platform
from airflow_ml.storage import sha256


def record(
    platform: Platform,
    name: str,
    version: int,
    signature: dict[str, str] | None = None,
    verdict: Verdict = "passed",
    saved_model: Path | None = None,
    golden: Path | None = None,
    reports: dict[str, Path] | None = None,
) -> Release:
    """Record a version with a gate report on disk; without its files it cannot be published."""
    folder = Path(platform.base) / "made" / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    nothing = FileOutput(uri=str(folder / "none"), sha256="0")
    network = FileOutput(uri=str(folder / "saved_model"), sha256=f"s{version}")
    if saved_model is not None:
        network = FileOutput(uri=str(saved_model), sha256=sha256(saved_model))
    report = GateReport(
        model=name,
        verdict=verdict,
        gates=(),
        champion=None,
        servability=None,
        evaluation_sha256="e",
        saved_model_sha256=network.sha256,
        training_fingerprint=f"t{version}",
    )
    path = folder / "gate_report.json"
    path.write_text(report.model_dump_json())
    release = Release(
        model=name,
        version=version,
        verdict=verdict,
        saved_model=network,
        gate_report=FileOutput(uri=str(path), sha256=sha256(path)),
        golden=nothing if golden is None else FileOutput(uri=str(golden), sha256=sha256(golden)),
        reference=nothing,
        statistics=nothing,
        signature=signature or {},
        training_fingerprint=f"t{version}",
        reports={
            title: FileOutput(uri=str(page), sha256="r", media_type="text/html")
            for title, page in (reports or {}).items()
        },
    )
    champions.record(platform, release)
    return release


def reissue(platform: Platform, name: str, version: int) -> Release:
    """Judge a recorded version again: the same model with another gate report."""
    path = Path(platform.base) / "releases" / name / f"{version}.json"
    release = champions.release_of(platform, name, version)
    report = Path(release.gate_report.uri)
    report.write_text(report.read_text() + "\n")
    pinned = release.gate_report.model_copy(update={"sha256": sha256(report)})
    release = release.model_copy(update={"gate_report": pinned})
    path.unlink()
    champions.record(platform, release)
    return release


def crown(platform: Platform, name: str, version: int) -> None:
    """Make a recorded version the champion: what `champions.promote` writes."""
    reigns = champions.history(platform, name)[::-1]
    release = champions.release_of(platform, name, version)
    reign = champions.Champion(
        version=version,
        release=release.id,
        previous=reigns[-1].version if reigns else None,
        trained_to=None,
        roc_auc=None,
        by_hand=True,
        reason="a test",
        promoted_at=datetime.now(UTC),
    )
    entries = [entry.model_dump(mode="json") for entry in (*reigns, reign)]
    records.write(Path(platform.base) / "releases" / name / "champions.json", champions=entries)
