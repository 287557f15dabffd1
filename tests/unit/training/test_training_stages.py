"""The stages `train` and `evaluate` as the runner executes them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airflow_ml.cli import _searched
from airflow_ml.lifecycle.errors import BaseError, MissingResult, SpecError
from airflow_ml.lifecycle.evaluation import Evaluation
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.lifecycle.releases import Release
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.registry import champions, tracking, versions
from airflow_ml.registry.client import client_of
from airflow_ml.spec import Tune, between, one_of
from airflow_ml.stages.runner import execute, identify, stage_of
from airflow_ml.storage import sha256
from tests.support.killing import FILE_MOMENTS, run_fresh, run_in_process
from tests.support.mounts import error_of, full
from tests.unit.training.conftest import model

Requests = Callable[..., JobRequest]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def killed(make_request: Requests, base: Path) -> dict[str, tuple[int, str]]:
    """Exit codes and output: tries of the training are killed before its files, before its result and after it."""
    request = make_request(base, "train")
    return {moment: run_in_process(request, moment)[::2] for moment in FILE_MOMENTS}


@pytest.fixture(scope="module")
def trained(make_request: Requests, base: Path, killed: dict[str, tuple[int, str]]) -> JobResult:
    """What the try says that nobody kills, on which the other tests build."""
    return execute(make_request(base, "train"))


@pytest.fixture(scope="module")
def evaluated(make_request: Requests, base: Path, trained: JobResult) -> JobResult:
    return execute(make_request(base, "evaluate", inputs={"train": trained.uri}))


def evaluation_of(result: JobResult) -> Evaluation:
    return Evaluation.model_validate_json(Path(result.outputs["evaluation"].uri).read_bytes())


@pytest.mark.slow
def test_a_training_killed_around_its_result_finds_its_run_and_its_last_epoch(
    make_request: Requests, base: Path, killed: dict[str, tuple[int, str]], trained: JobResult
):
    for code, output in killed.values():
        assert code == -9, output
    # The try that wrote the result went on from the last epoch of the one before; the last had nothing to do.
    assert trained.reused
    assert trained.summary["resumed_from_epoch"] == trained.metrics["epochs"] == 3
    client = client_of(make_request(base, "train").platform)
    # This is the first test in this base.
    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert [run.info.run_id for run in runs] == [trained.summary["mlflow_run_id"]]


@pytest.mark.slow
def test_a_trained_model_is_a_result_and_a_run_in_mlflow(make_request: Requests, base: Path, trained: JobResult):
    assert trained.metrics["validation_roc_auc"] > 0.75
    assert trained.summary["world_size"] == 2
    assert trained.rows == 4200
    history = json.loads(Path(trained.outputs["model"].uri, "history.json").read_text())["history"]
    best = history[trained.summary["best_epoch"] - 1]
    assert best["validation_loss"] == pytest.approx(trained.metrics["best_validation_loss"])
    request = make_request(base, "train")
    client, run = client_of(request.platform), trained.summary["mlflow_run_id"]
    shown = client.get_metric_history(run, "validation_loss")
    assert [(metric.step, metric.value) for metric in shown] == [(e["epoch"], e["validation_loss"]) for e in history]
    assert client.get_run(run).info.status == "FINISHED"
    assert client.get_run(run).data.params["batch_size"] == "128"
    # Two ranks of one core each, or more, from their start to their end, in both tries.
    usage = trained.summary["usage"]
    assert usage["cpu_hours"] * 3600 > trained.timings["ranks"]
    assert (usage["gpu_hours"], usage["cost"], usage["currency"]) == (0, 0, "EUR")
    told = [metric.value for metric in client.get_metric_history(run, "cpu_hours")]
    assert len(told) == 2
    assert 0 < min(told) < max(told) == usage["cpu_hours"]


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_checkpoint_is_written_is_one_clear_error(make_request: Requests, tmp_path: Path):
    request = make_request(tmp_path, "train")
    checkpoints = identify(request, stage_of("train")).state / "checkpoints"
    checkpoints.mkdir(parents=True)
    error = error_of(request, full(checkpoints))
    assert isinstance(error, BaseError)
    assert error.what == "cannot write: No space left on device"
    assert error.where == str(checkpoints / "epoch-00001.pt")
    assert error.remedy.startswith("free space on this file system, then retry")


def test_the_requests_parameters_override_the_declaration(make_request: Requests, tmp_path: Path):
    def fingerprint(**changed: object) -> str:
        return identify(make_request(tmp_path, "train", **changed), stage_of("train")).fingerprint

    assert fingerprint(params={"training": {"epochs": 3}}) == fingerprint()
    assert fingerprint(params={"training": {"epochs": 4}}) != fingerprint()
    with pytest.raises(SpecError, match=re.escape("training.params.epochs")):
        fingerprint(params={"training": {"epochs": "many"}})
    with pytest.raises(SpecError, match="is not an object"):
        fingerprint(params={"training": 3})


@pytest.mark.slow
def test_evaluation_has_numbers_with_rows_and_intervals(evaluated: JobResult):
    evaluation = evaluation_of(evaluated)
    assert evaluation.rows == 900
    assert evaluation.champion is None
    for name, metric in evaluation.metrics.items():
        assert metric.rows == 900, name
        assert metric.low <= metric.value <= metric.high, name
    for column in ("carrier", "origin", "hour"):
        slices = [found for found in evaluation.slices if found.column == column]
        assert sum(found.rows for found in slices) == 900
        assert [found.rows for found in slices] == sorted((found.rows for found in slices), reverse=True)
    assert "14" in {found.value for found in evaluation.slices if found.column == "hour"}
    assert sum(found.rows for found in evaluation.calibration) == 900


@pytest.mark.slow
@pytest.mark.parametrize("moment", FILE_MOMENTS)
def test_an_evaluation_killed_around_its_result_says_the_same_after_a_retry(
    make_request: Requests, trained: JobResult, evaluated: JobResult, tmp_path: Path, moment: str
):
    request = make_request(tmp_path, "evaluate", inputs={"train": trained.uri})
    code, _, output = run_in_process(request, moment)
    assert code == -9, output
    again = execute(request)
    assert again.reused == (moment == "after result")
    assert evaluation_of(again) == evaluation_of(evaluated)
    assert again.outputs["test_predictions"].sha256 == evaluated.outputs["test_predictions"].sha256
    assert len(list(Path(again.uri).parent.glob("attempt-*"))) == 1


@pytest.mark.slow
def test_predictions_carry_what_monitoring_compares(evaluated: JobResult, splits: Path):
    predictions = pq.read_table(evaluated.outputs["test_predictions"].uri)
    names = "entity ds event_time carrier origin hour dest wind distance label probability"
    assert " ".join(predictions.column_names) == names
    assert predictions.column("entity").to_pylist() == pq.read_table(splits / "test").column("entity").to_pylist()
    assert predictions.column("probability").null_count == 0


@pytest.mark.slow
def test_the_report_is_one_file_that_asks_for_nothing(evaluated: JobResult, trained: JobResult):
    for result, name in ((evaluated, "evaluation"), (trained, "training")):
        page = Path(result.reports[name].uri).read_text()
        assert page.count("<svg") == (4 if name == "evaluation" else 1)
        assert not re.search(r"""(src|href)\s*=\s*["']?[^#"'\s]|<script|<link|@import|url\((?!#)""", page)


@pytest.mark.slow
def test_the_champion_is_measured_on_the_same_rows(
    make_request: Requests, base: Path, trained: JobResult, evaluated: JobResult, tmp_path: Path
):
    exported = execute(make_request(base, "export", inputs={"train": trained.uri}))
    request = make_request(base, "evaluate", inputs={"train": trained.uri})
    release = champion(request, exported.outputs["saved_model"])
    # In a process of its own, as stages run: TensorFlow and torch are loaded in the stage's order.
    code, compared, output = run_fresh(request)
    assert code == 0, output
    assert compared.fingerprint != evaluated.fingerprint
    evaluation = evaluation_of(compared)
    assert evaluation.champion.version == release.version
    for name, metric in evaluation.metrics.items():
        theirs = evaluation.champion.metrics[name]
        assert (theirs.value, theirs.rows) == (pytest.approx(metric.value, abs=1e-5), metric.rows), name
    assert compared.metrics["champion_roc_auc"] == pytest.approx(compared.metrics["roc_auc"], abs=1e-5)
    page = Path(compared.reports["evaluation"].uri).read_text()
    assert f"Champion, version {release.version}" in page


@pytest.mark.slow
def test_a_champion_that_cannot_be_compared_has_no_numbers_but_a_reason(
    make_request: Requests, base: Path, trained: JobResult, tmp_path: Path
):
    request = make_request(base, "evaluate", inputs={"train": trained.uri})
    release = champion(request, _with_a_column_that_is_gone(Path(trained.outputs["model"].uri), tmp_path))
    code, compared, output = run_fresh(request)
    assert code == 0, output
    found = evaluation_of(compared).champion
    assert found.version == release.version
    assert {metric.value for metric in found.metrics.values()} == {None}
    assert "reads gone" in found.metrics["roc_auc"].reason
    assert "reads gone" in compared.summary["champion_not_comparable"]
    assert compared.metrics["champion_roc_auc"] is None


@pytest.mark.slow
def test_a_slice_that_the_features_do_not_have_is_named(make_request: Requests, base: Path, trained: JobResult):
    declared = model().model_copy(update={"slices": ("terminal",)})
    named = trained.model_copy(update={"spec_hash": make_request(base, "train", declared).spec_hash})
    path = Path(base, "other-result.json")
    path.write_text(named.model_dump_json())
    with pytest.raises(SpecError, match="no column terminal"):
        execute(make_request(base, "evaluate", declared, inputs={"train": str(path)}))


def champion(request: JobRequest, saved_model: FileOutput) -> Release:
    """Register and record a version that passed, and make it the champion."""
    folder = Path(request.platform.base) / "made"
    folder.mkdir(exist_ok=True)
    training = f"training of {saved_model.sha256}"
    run = tracking.start_run(request.platform, "toy", training)
    version = versions.register(request.platform, "toy", training, saved_model.uri, run, {})
    report = GateReport(
        model="toy",
        verdict="passed",
        gates=(),
        champion=None,
        servability=None,
        evaluation_sha256="e",
        saved_model_sha256=saved_model.sha256,
        training_fingerprint=training,
    )
    path = folder / f"report-{version}.json"
    path.write_text(report.model_dump_json())
    nothing = FileOutput(uri=str(folder / "none"), sha256="0")
    release = Release(
        model="toy",
        version=version,
        verdict="passed",
        saved_model=saved_model,
        gate_report=FileOutput(uri=str(path), sha256=sha256(path)),
        golden=nothing,
        reference=nothing,
        statistics=nothing,
        signature={},
        training_fingerprint=training,
    )
    champions.record(request.platform, release)
    now = champions.champion(request.platform, "toy")
    champions.promote(request.platform, release, expected=None if now is None else now.version)
    return release


def _with_a_column_that_is_gone(trained: Path, folder: Path) -> FileOutput:
    from airflow_ml.serving.engines import tensorflow

    tensorflow()
    from airflow_ml.serving.export import export_saved_model
    from airflow_ml.training.model_files import load

    text = (trained / "preprocessing.json").read_text().replace('"wind"', '"gone"')
    export_saved_model(load(trained), Preprocessing.from_json(text), folder / "saved_model")
    return FileOutput(uri=str(folder / "saved_model"), sha256=sha256(folder / "saved_model"))


SEARCH = Tune(trials=1, search={"learning_rate": between(0.01, 0.1, log=True), "hidden": one_of([8], [4])})


@pytest.mark.slow
def test_a_trial_is_a_training_of_the_local_compute_and_its_reports_are_heard(make_request: Requests, base: Path):
    request = make_request(base, "tune", model(tune=SEARCH, workers=1, params={"epochs": 2, "batch_size": 512}))
    # As the command line does it.
    (trial,) = _searched(request).params["study"]["trials"]
    assert (trial["state"], trial["epochs"]) == ("complete", 2)
    assert trial["params"]["hidden"] in ([8], [4])
    run = client_of(request.platform).get_run(trial["mlflow_run_id"])
    assert float(run.data.params["learning_rate"]) == pytest.approx(trial["params"]["learning_rate"])
    assert trial["value"] == pytest.approx(min(m.value for m in _losses(request, trial["mlflow_run_id"])))


def _losses(request: JobRequest, run_id: str) -> list:
    return client_of(request.platform).get_metric_history(run_id, "validation_loss")


def test_a_study_is_recorded_and_trainings_use_its_best(make_request: Requests, tmp_path: Path):
    tuned = model(tune=SEARCH.model_copy(update={"use_best": True}))
    searching = make_request(tmp_path, "train", tuned)
    train = stage_of("train")
    # Before any study a flag asks for nothing, and a person who asks for the best is told.
    assert identify(searching, train).identity["params"] == tuned.training.params
    best = searching.model_copy(update={"params": {"training": "best"}})
    with pytest.raises(MissingResult, match="no study has ended yet"):
        identify(best, train)
    trials = [
        {"number": n, "state": state, "value": value, "params": {"learning_rate": rate}, "epochs": 2}
        | {"gpu_hours": 0.5, "mlflow_run_id": f"run-{n}"}
        for n, (state, value, rate) in enumerate(
            [("complete", 0.6, 0.01), ("complete", 0.5, 0.05), ("pruned", None, 0.1)]
        )
    ]
    # Nobody who was ended has said so; of the others, nobody knows here.
    ended = trials[2]["mlflow_run_id"] = tracking.start_run(searching.platform, "toy", "of the trial that was ended")
    study = {"study": "toy-1", "best": 1, "trials": trials}
    result = execute(make_request(tmp_path, "tune", tuned, params={"study": study}))
    assert result.summary["best_params"] == {"learning_rate": 0.05}
    assert result.summary["trials"] == {"complete": 2, "pruned": 1}
    assert client_of(searching.platform).get_run(ended).info.status == "KILLED"
    shown = client_of(searching.platform).get_metric_history(result.summary["mlflow_run_id"], "trial_validation_loss")
    assert [(metric.step, metric.value) for metric in shown] == [(0, 0.6), (1, 0.5)]
    named = searching.model_copy(update={"inputs": {**searching.inputs, "tune": result.uri}})
    for request in (searching, best, named):
        assert identify(request, train).identity["params"] == {**tuned.training.params, "learning_rate": 0.05}
    given = searching.model_copy(update={"params": {"training": {"epochs": 1}}})
    assert identify(given, train).identity["params"] == {**tuned.training.params, "epochs": 1}
    with pytest.raises(SpecError, match="there is no search to record"):
        execute(make_request(tmp_path, "tune", model()))
