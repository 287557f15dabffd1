"""Export, gates, register and release with real MLflow and server processes; killed at each step, raced, undone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from airflow_ml.lifecycle.errors import ChampionMoved, ExportRefused, NotReleasable, ServingError
from airflow_ml.lifecycle.gates import GateReport
from airflow_ml.lifecycle.requests import FileOutput, JobRequest, JobResult
from airflow_ml.registry import champions, versions
from airflow_ml.registry.client import client_of
from airflow_ml.serving.client import connect
from airflow_ml.serving.deployment import ModelConfigFile
from airflow_ml.serving.engines import tensorflow
from airflow_ml.serving.golden import read_golden
from airflow_ml.serving.probe import probe
from airflow_ml.spec import Platform, Serving, at_least, at_most, servable
from airflow_ml.stages import runner
from airflow_ml.stages.code import code_version
from airflow_ml.storage import sha256
from tests.support.finished import (
    Finished,
    crown,
    finish_evaluation,
    finish_training,
    register,
    write_result,
)
from tests.support.killing import FILE_MOMENTS
from tests.unit.lifecycle import steps

pytestmark = pytest.mark.slow


def lying_builder(module: Any, preprocessing: Any) -> Any:
    """A conversion whose probabilities are not the network's."""
    tf = tensorflow()

    class Lie(tf.Module):  # type: ignore[misc]
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None], tf.string, "carrier"),
                tf.TensorSpec([None], tf.float32, "x"),
                tf.TensorSpec([None], tf.float32, "y"),
            ]
        )
        def serving_default(self, carrier: Any, x: Any, y: Any) -> dict[str, Any]:
            return {"probability": x * 0 + 0.123}

    return Lie()


# export


def test_export_is_equal_on_the_whole_test_split_and_keeps_odd_golden_rows(exported: Finished) -> None:
    result = exported.run("export")
    assert result.reused
    assert result.metrics["max_abs_diff"] is not None
    assert result.metrics["max_abs_diff"] <= 1e-5
    assert result.summary["parity_rows"] == 400
    assert result.summary["signature"] == {"carrier": "string", "x": "float32", "y": "float32"}
    golden = read_golden(Path(result.outputs["golden"].uri))
    rows = [
        dict(zip(request.inputs, row, strict=True))
        for request in golden
        for row in zip(*request.inputs.values(), strict=True)
    ]
    assert len(rows) == exported.model.serving.golden_rows
    assert any(row["x"] is None and row["y"] is None for row in rows)
    assert any(row["carrier"] == "" for row in rows)
    assert any(row["carrier"] not in ("", "AA", "B6", "UA") for row in rows)


def test_an_export_that_lies_is_refused_and_leaves_no_result(tmp_path: Path) -> None:
    done = finish_training(
        tmp_path, serving=Serving(builder="tests.unit.lifecycle.test_lifecycle_release:lying_builder")
    )
    with pytest.raises(ExportRefused, match="differs from the network by"):
        done.run("export")
    assert runner.find(done.request("export")) is None


@pytest.mark.parametrize("moment", FILE_MOMENTS)
def test_an_export_killed_around_its_result_is_the_same_after_a_retry(
    done: Finished, exported: Finished, moment: str
) -> None:
    code, output = steps.run_until(moment, done.request("export"))
    assert code == -9, output
    again = done.run("export")
    assert again.reused == (moment == "after result")
    assert hashes(again) == hashes(exported.run("export"))
    assert len(list(Path(again.uri).parent.glob("attempt-*"))) == 1


def hashes(result: JobResult) -> dict[str, str]:
    return {name: output.sha256 for name, output in result.outputs.items() if isinstance(output, FileOutput)}


# gates


@pytest.mark.parametrize("moment", FILE_MOMENTS)
def test_gates_killed_around_their_result_say_the_same_after_a_retry(done: Finished, moment: str) -> None:
    finish_evaluation(done)
    undisturbed = done.run("gates")
    shutil.rmtree(Path(undisturbed.uri).parent)
    code, output = steps.run_until(moment, done.request("gates"))
    assert code == -9, output
    again = done.run("gates")
    assert again.reused == (moment == "after result")
    assert hashes(again) == hashes(undisturbed)
    assert len(list(Path(again.uri).parent.glob("attempt-*"))) == 1


def test_a_real_server_answers_the_golden_requests(base: Path) -> None:
    done = finish_training(base, gates=(at_least("roc_auc", 0.6), servable(), at_most("p99_latency_ms", 10_000)))
    done.run("export")
    finish_evaluation(done)
    result = done.run("gates")
    report = GateReport.model_validate_json(Path(result.outputs["gate_report"].uri).read_bytes())
    assert report.verdict == result.summary["verdict"] == "passed"
    assert report.servability is not None
    assert report.servability.golden_rows == 32
    assert report.servability.max_abs_diff_rest is not None
    assert report.servability.max_abs_diff_rest < 1e-5
    page = Path(result.reports["gates"].uri).read_text()
    assert "passed" in page
    assert "<script" not in page


def test_a_model_that_no_server_loads_is_rejected_and_the_run_goes_on(base: Path) -> None:
    done = finish_training(base, gates=(servable(),))
    done.run("export")
    broken = base / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"not a graph")
    golden = runner.read_result(Path(done.inputs["export"])).outputs["golden"]
    pinned = FileOutput(uri=str(broken), sha256=sha256(broken))
    write_result(done, "export", "broken", {"saved_model": pinned, "golden": golden}, summary={"signature": {}})
    finish_evaluation(done)
    result = done.run("gates")
    assert result.summary["verdict"] == "rejected"
    assert result.summary["reasons"][0].startswith("servable: ")


@pytest.mark.parametrize("auc", [0.5, None, float("nan")])
def test_a_rejected_model_is_registered_with_its_reasons_and_cannot_be_released(
    done: Finished, auc: float | None
) -> None:
    finish_evaluation(done, auc)
    assert done.run("gates").summary["verdict"] == "rejected"
    result = done.run("register")
    assert result.summary["alias"] is None
    tags = client_of(done.platform).get_model_version("small", str(result.summary["version"])).tags
    assert tags["airflow_ml.verdict"] == "rejected"
    assert "at_least(roc_auc, 0.6)" in tags["airflow_ml.reasons"]
    with pytest.raises(NotReleasable, match="was rejected by its gates"):
        done.run("release")
    assert champions.champion(done.platform, "small") is None


# register


def test_a_version_carries_its_lineage(done: Finished) -> None:
    version = register(done)
    release = champions.release_of(done.platform, "small", version)
    tags = client_of(done.platform).get_model_version("small", str(version)).tags
    assert tags["airflow_ml.data.features"] == f"{done.table('features').path}@3".replace(
        done.platform.base, str(Path(done.inputs["training_set"]).parents[4])
    )
    assert tags["airflow_ml.gate_report_sha256"] == release.gate_report.sha256
    assert tags["airflow_ml.training_fingerprint"] == release.training_fingerprint
    assert tags["airflow_ml.previous_champion"] == ""
    assert tags["airflow_ml.spec_hash"]
    # The user's: the label function of this declaration can be imported, and what it says is what was trained on.
    assert tags["airflow_ml.code_version"] == code_version([done.model.label.compute])
    assert tags["airflow_ml.code_version"] != code_version([])
    assert versions.aliases_of(done.platform, "small") == {"challenger": version}


def test_registering_again_finds_the_version_and_another_opponent_makes_another(done: Finished) -> None:
    first = register(done)
    assert register(done) == first
    crown(done, first)
    assert register(done) == first + 1


@pytest.mark.parametrize("step", steps.REGISTER)
def test_register_killed_after_any_step_finds_the_version_it_made(done: Finished, step: str) -> None:
    finish_evaluation(done)
    done.run("gates")
    code, output = steps.run_until(step, done.request("register"))
    assert code == -9, output
    result = done.run("register")
    assert result.summary["version"] == 1
    assert result.summary["alias"] == "challenger"
    client = client_of(done.platform)
    assert [int(version.version) for version in client.search_model_versions("name = 'small'")] == [1]
    assert champions.release_of(done.platform, "small", 1).verdict == "passed"
    run = client.get_run(result.summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_roc_auc"] == 0.8


# release


def state(done: Finished) -> dict[str, Any]:
    """What a release leaves behind, without clock times."""
    config = ModelConfigFile(Path(done.platform.serving_folder))
    release = champions.champion(done.platform, "small")
    assert release is not None
    with connect(f"grpc://{done.platform.serving.grpc}") as client:
        answered = probe(client, read_golden(Path(release.golden.uri)), "small", release.version)
        label = client.metadata("small", label="stable").version
    return {
        "champion": release.version,
        "history": [reign.version for reign in champions.history(done.platform, "small")],
        "aliases": versions.aliases_of(done.platform, "small"),
        "loaded": config.versions("small"),
        "stable": (config.labels("small")["stable"], label),
        "answers": answered.ok,
    }


def after(*reigns: int) -> dict[str, Any]:
    """The state after releasing these versions one after the other."""
    return {
        "champion": reigns[-1],
        "history": list(reigns[::-1]),
        "aliases": {"champion": reigns[-1]},
        "loaded": sorted(reigns[-2:]),
        "stable": (reigns[-1], reigns[-1]),
        "answers": True,
    }


def test_releases_follow_each_other_and_a_person_goes_back(serving: Finished) -> None:
    first = register(serving)
    result = serving.run("release")
    assert (result.summary["version"], result.summary["previous_champion"]) == (first, None)
    assert state(serving) == after(1)
    assert serving.run("release").reused
    second = register(serving)
    assert serving.run("release").summary["previous_champion"] == first
    assert state(serving) == after(1, 2)

    back = serving.run("release", version=first, reason="the second one is late at night")
    assert back.summary["by_hand"] is True
    assert champions.history(serving.platform, "small")[0].reason == "the second one is late at night"
    assert state(serving)["stable"] == (first, first)
    # The automatic run of version 2 is cleared: it must not undo what a person did.
    with pytest.raises(ChampionMoved, match="it was champion before"):
        execute_again(serving.request("release"))
    forth = serving.run("release", version=second)
    assert not forth.reused
    assert state(serving)["history"] == [2, 1, 2, 1]


def execute_again(request: JobRequest) -> None:
    """Run a request whose result is there, without an upstream that changed meanwhile."""
    inputs = {name: uri for name, uri in request.inputs.items() if name != "release"}
    runner.execute(request.model_copy(update={"inputs": inputs}))


@pytest.mark.parametrize("step", steps.RELEASE)
def test_release_killed_after_any_step_ends_like_one_that_was_not(serving: Finished, step: str) -> None:
    register(serving)
    code, output = steps.run_until(step, serving.request("release"))
    assert code == -9, output
    serving.run("release")
    assert state(serving) == after(1)


def test_of_two_releases_at_once_one_wins_and_the_other_says_so(serving: Finished) -> None:
    register(serving, auc=0.8)
    one = serving.request("release")
    register(serving, auc=0.9)
    other = serving.request("release")
    said = sorted(steps.at_once(one, other), reverse=True)
    assert said[0].startswith("the champion is version")
    assert said[1] == "done"
    assert state(serving)["history"] in ([1], [2])


def test_without_a_server_nothing_moves_and_the_remedy_is_named(done: Finished) -> None:
    done.platform = Platform(base=done.platform.base, serving={"grpc": "127.0.0.1:1", "rest": "127.0.0.1:1"})
    register(done)
    with pytest.raises(ServingError, match="airflow-ml serve"):
        done.run("release")
    assert champions.champion(done.platform, "small") is None


def test_a_saved_model_that_changed_is_not_released(serving: Finished, tmp_path: Path) -> None:
    version = register(serving)
    record = tmp_path / "releases" / "small" / f"{version}.json"
    data = json.loads(record.read_text())
    data["saved_model"]["sha256"] = "0" * 64
    record.write_text(json.dumps(data))
    with pytest.raises(NotReleasable, match="about another model"):
        serving.run("release")


def test_a_version_that_is_not_a_number_is_refused(done: Finished) -> None:
    with pytest.raises(Exception, match="is not a whole number"):
        done.run("release", version="newest")
