"""A stage is a transaction: the same request gives the same result, whatever happened to the process before."""

import json
import multiprocessing
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import BaseError, CommitConflict, MissingResult, NameTaken, SpecChanged, SpecError
from airflow_ml.lifecycle.fingerprints import fingerprint
from airflow_ml.lifecycle.requests import FORMAT, JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages import runner, workspace
from airflow_ml.stages.base import Outcome, PartitionStage, Stage
from airflow_ml.stages.code import code_version, load
from tests.support.models import small_model


class CountingStage(Stage):
    """Writes how often it ran."""

    name = "train"
    params = ("a",)
    runs = 0

    def identify(self, ctx):
        return {"params": ctx.params, "epochs": ctx.model.training.params}

    def run(self, ctx):
        type(self).runs += 1
        path = ctx.files / "model.txt"
        path.write_text(str(ctx.params))
        return Outcome(outputs={"model": ctx.pin(path)}, metrics={"runs": float(self.runs)}, rows=7)


class DayStage(PartitionStage):
    """Commits one row a day that says what it was made from."""

    name = "ingest"
    params = ("source",)

    def table(self, ctx):
        return ctx.table("raw")

    def inputs(self, ctx):
        return {day: ctx.params.get("source", "a") for day in ctx.window}

    def build(self, ctx, days, attempt):
        schema = pa.schema([("made_from", pa.string())])
        for day in days:
            pq.write_table(
                pa.table({"made_from": [ctx.params.get("source", "a")]}, schema=schema),
                attempt.partition(day) / "p.parquet",
            )
        return schema, {}


class ReadingStage(Stage):
    """Reads what is committed, and what its parameter names."""

    name = "evaluate"
    params = ("also",)

    def identify(self, ctx):
        return {"params": ctx.params}

    def run(self, ctx):
        if also := ctx.params.get("also"):
            Path(also).read_text()
        return Outcome(rows=ctx.table("raw").read().num_rows)


@pytest.fixture
def stages(monkeypatch):
    CountingStage.runs = 0
    known = {"train": CountingStage(), "ingest": DayStage(), "evaluate": ReadingStage()}
    monkeypatch.setattr(runner, "stage_of", known.__getitem__)


def request(base: Path, stage: str = "train", **changes) -> JobRequest:
    return JobRequest(stage=stage, **({"model": small_model(), "platform": Platform(base=str(base))} | changes))


@pytest.mark.usefixtures("stages")
class TestResults:
    def test_the_same_request_is_not_executed_again(self, tmp_path):
        first = runner.execute(request(tmp_path))
        again = runner.execute(request(tmp_path))
        assert CountingStage.runs == 1
        assert again.reused
        assert not first.reused
        assert again.outputs == first.outputs

    def test_another_parameter_is_another_result_and_the_first_stays(self, tmp_path):
        first = runner.execute(request(tmp_path, params={"a": 1}))
        second = runner.execute(request(tmp_path, params={"a": 2}))
        assert first.fingerprint != second.fingerprint
        assert Path(first.outputs["model"].uri).read_text() == "{'a': 1}"

    def test_a_part_of_the_spec_that_the_stage_does_not_use_changes_nothing(self, tmp_path):
        runner.execute(request(tmp_path))
        assert runner.execute(request(tmp_path, model=small_model(description="other words"))).reused

    def test_a_repeated_stage_belongs_to_the_declaration_of_the_repetition(self, tmp_path):
        """Clearing a run after a change that decides nothing here is the remedy that `SpecChanged` names."""
        runner.execute(request(tmp_path))
        changed = small_model(description="other words")
        again = runner.execute(request(tmp_path, model=changed))
        assert again.reused
        later = request(tmp_path, model=changed, inputs={"train": again.uri})
        assert runner.identify(later, CountingStage()).upstream("train").fingerprint == again.fingerprint

    @pytest.mark.parametrize("moment", ["while it waited", "while it built"])
    def test_inputs_that_change_under_a_stage_are_not_published(self, tmp_path, monkeypatch, moment):
        source = {"is": "a"}
        monkeypatch.setattr(DayStage, "inputs", lambda self, ctx: dict.fromkeys(ctx.window, source["is"]))
        build = DayStage.build

        def building(self, ctx, days, attempt):
            source["is"] = "b"
            return build(self, ctx, days, attempt)

        if moment == "while it built":
            monkeypatch.setattr(DayStage, "build", building)
        else:
            identify = runner.identify
            monkeypatch.setattr(runner, "identify", lambda *args: (identify(*args), source.update({"is": "b"}))[0])
        with pytest.raises(CommitConflict, match="inputs changed while the stage ran: partitions"):
            runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-01")))
        assert LakeTable(tmp_path / "lake/small/raw").missing([date(2013, 1, 1)])

    def test_a_result_is_found_by_its_fingerprint(self, tmp_path):
        assert runner.find(request(tmp_path)) is None
        done = runner.execute(request(tmp_path))
        assert runner.find(request(tmp_path)) == done

    def test_a_partition_that_was_overwritten_is_built_again(self, tmp_path):
        window = Window.of("2013-01-01")
        for source in ("a", "b", "a"):
            result = runner.execute(request(tmp_path, "ingest", window=window, params={"source": source}))
            assert not result.reused
        assert LakeTable(tmp_path / "lake/small/raw").read()["made_from"].to_pylist() == ["a"]

    def test_a_night_inside_a_bulk_commit_is_current(self, tmp_path):
        bulk = runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-01", "2013-01-31")))
        night = runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-07")))
        assert night.summary["built"] == []
        assert night.outputs["raw"].version == bulk.outputs["raw"].version

    def test_a_result_lost_after_the_commit_is_written_again_without_a_commit(self, tmp_path):
        first = runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-01", "2013-01-03")))
        Path(first.uri).unlink()
        again = runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-01", "2013-01-03")))
        assert again.outputs == first.outputs
        assert again.fingerprint == first.fingerprint

    def test_files_of_attempts_that_died_are_removed(self, tmp_path):
        ctx = runner.identify(request(tmp_path), CountingStage())
        (ctx.folder / "attempt-dead").mkdir(parents=True)
        (ctx.folder / "attempt-dead" / "half.bin").write_bytes(b"x")
        runner.execute(request(tmp_path))
        assert not (ctx.folder / "attempt-dead").exists()


@pytest.mark.usefixtures("stages")
class TestRefusals:
    def test_a_base_of_a_newer_version(self, tmp_path):
        (tmp_path / "airflow_ml.json").write_text(json.dumps({"format": 99, "written_by": "9.0"}))
        with pytest.raises(BaseError, match=r"written by airflow-ml 9.0 .*Remedy: upgrade"):
            runner.execute(request(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["airflow_ml.json"]

    def test_a_base_of_an_older_version_that_a_newer_one_wrote_into(self, tmp_path, monkeypatch):
        runner.execute(request(tmp_path))
        with monkeypatch.context() as newer:
            newer.setattr(workspace, "FORMAT", FORMAT + 1)
            newer.setattr(workspace, "__version__", "9.0")
            runner.execute(request(tmp_path))
            runner.execute(request(tmp_path))
        with pytest.raises(BaseError, match=rf"written by airflow-ml 9.0 in format {FORMAT + 1};"):
            runner.execute(request(tmp_path))

    def test_a_request_of_a_newer_version(self, tmp_path):
        with pytest.raises(BaseError, match=rf"request of format {FORMAT + 1}; .*Remedy: upgrade"):
            runner.execute(request(tmp_path, format=FORMAT + 1))
        assert list(tmp_path.iterdir()) == []

    def test_a_result_of_a_newer_version(self, tmp_path):
        done = runner.execute(request(tmp_path))
        Path(done.uri).write_text(json.dumps(json.loads(Path(done.uri).read_text()) | {"format": FORMAT + 1, "new": 1}))
        for look in (runner.execute, runner.find):
            with pytest.raises(BaseError, match=rf"result of format {FORMAT + 1}; .*Remedy: upgrade"):
                look(request(tmp_path))
        assert CountingStage.runs == 1

    def test_two_models_of_one_name(self, tmp_path):
        runner.execute(request(tmp_path))
        other = small_model(declared_in="other.model")
        with pytest.raises(NameTaken, match=r"'small.model'.*'other.model'.*Remedy: give one of them another name"):
            runner.execute(request(tmp_path, model=other))

    def test_a_declaration_that_changed_under_a_run(self, tmp_path):
        done = runner.execute(request(tmp_path))
        changed = request(tmp_path, model=small_model(description="changed"), inputs={"train": done.uri})
        with pytest.raises(SpecChanged, match="clear the whole run"):
            runner.identify(changed, CountingStage()).upstream("train")

    def test_a_parameter_that_the_stage_does_not_take(self, tmp_path):
        with pytest.raises(SpecError, match=r"stage train: unknown parameters: foo\. Remedy: it takes: a$"):
            runner.execute(request(tmp_path, params={"a": 1, "foo": 1}))
        assert CountingStage.runs == 0

    @pytest.mark.parametrize("text", ["", "{", '{"format": 1}', "null", '{"format": "x"}'])
    def test_a_damaged_result(self, tmp_path, text):
        done = runner.execute(request(tmp_path))
        Path(done.uri).write_text(text)
        with pytest.raises(
            BaseError, match=r"result\.json: the result is damaged: .*Remedy: remove the file"
        ) as refused:
            runner.execute(request(tmp_path))
        assert refused.value.where == done.uri
        Path(done.uri).unlink()
        assert not runner.execute(request(tmp_path)).reused

    def test_a_committed_file_that_is_gone_is_told_and_its_partition_made_again(self, tmp_path):
        ingest = request(tmp_path, "ingest", window=Window.of("2013-01-01", "2013-01-03"))
        runner.execute(ingest)
        table = LakeTable(tmp_path / "lake/small/raw")
        (lost,) = table.files(Window.of("2013-01-02"))
        Path(lost).unlink()
        with pytest.raises(BaseError, match=r"a committed file is gone.*the table 'raw' again") as refused:
            runner.execute(request(tmp_path, "evaluate"))
        assert refused.value.where == lost
        again = runner.execute(ingest)
        assert again.summary["built"] == ["2013-01-02"]
        assert not again.reused
        assert runner.execute(request(tmp_path, "evaluate")).rows == 3
        assert runner.execute(ingest).reused

    def test_a_file_that_a_stages_own_code_misses_is_no_committed_one(self, tmp_path):
        runner.execute(request(tmp_path, "ingest", window=Window.of("2013-01-01")))
        with pytest.raises(FileNotFoundError):
            runner.execute(request(tmp_path, "evaluate", params={"also": str(tmp_path / "no.parquet")}))

    def test_an_upstream_stage_that_has_not_run(self, tmp_path):
        ctx = runner.identify(request(tmp_path, window=Window.of("2013-01-01", "2013-02-01")), CountingStage())
        with pytest.raises(MissingResult, match="airflow-ml run train small --from 2013-01-01 --to 2013-02-01"):
            ctx.upstream("train")


def test_an_unknown_stage_is_refused():
    with pytest.raises(SpecError, match="there is no stage 'trian'"):
        runner.stage_of("trian")


def _hold(path: str, ready, leave) -> None:
    from airflow_ml.stages.workspace import locked

    with locked(Path(path)):
        ready.set()
        leave.wait()


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path):
    from airflow_ml.stages.workspace import locked

    spawn = multiprocessing.get_context("spawn")
    ready, leave = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(str(tmp_path / "lock"), ready, leave))
    holder.start()
    assert ready.wait(30)
    waited: list[bool] = []
    with locked(tmp_path / "lock", waiting=lambda: (waited.append(True), holder.kill())[0]):
        assert waited == [True]
    holder.join()


class TestCode:
    def test_the_version_follows_imports_inside_the_package(self, tmp_path, monkeypatch):
        package = tmp_path / "proj_a"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "features.py").write_text("from proj_a.helper import x\nimport os\n\ndef build(): ...\n")
        (package / "helper.py").write_text("x = 1\n")
        (package / "model.py").write_text("# not imported by features\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        first = code_version(["proj_a.features:build"])
        (package / "model.py").write_text("# changed\n")
        assert code_version(["proj_a.features:build"]) == first
        (package / "helper.py").write_text("x = 2\n")
        assert code_version(["proj_a.features:build"]) != first

    @pytest.mark.parametrize("broken", ["helper", "__init__"])
    def test_a_syntax_error_is_told_with_the_entry_point_and_its_line(self, tmp_path, monkeypatch, broken):
        package = tmp_path / f"proj_{broken.strip('_')}"
        package.mkdir()
        sources = {"__init__": "", "features": "from . import helper\n\ndef build(): ...\n", "helper": ""}
        for name, text in (sources | {broken: "x = = 1\n"}).items():
            (package / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        point = f"{package.name}.features:build"
        says = rf"entry point {point}: its code cannot be read: SyntaxError.*{broken}\.py, line 1"
        with pytest.raises(SpecError, match=says):
            code_version([point])

    @pytest.mark.parametrize(
        ("point", "says"), [("no_such_module:f", "cannot import"), ("json:no_such", "has no function")]
    )
    def test_a_wrong_entry_point_is_refused(self, point, says):
        with pytest.raises(SpecError, match=says):
            load(point)


def test_fingerprints_do_not_depend_on_order():
    assert fingerprint({"a": 1, "b": date(2013, 1, 1)}) == fingerprint({"b": date(2013, 1, 1), "a": 1})
    assert len(fingerprint("x")) == 64


def test_the_job_process_answers_with_an_error_as_data(tmp_path):
    asked = tmp_path / "request.json"
    asked.write_text(request(tmp_path / "base", stage="nope").model_dump_json())
    command = [sys.executable, "-m", "airflow_ml.stages", str(asked), str(tmp_path / "response.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    answer = json.loads((tmp_path / "response.json").read_text())
    assert done.returncode == 1
    assert answer["error"] == "SpecError"
    assert "ingest" in answer["remedy"]
