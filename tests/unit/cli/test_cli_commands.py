"""The command line: what a user reads when something is wrong, and that the stages are the same as in Airflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airflow_ml.cli import app

RIGHT = """
from airflow_ml import Column, Features, Files, Horovod, Label, Model, Schema, Serving, at_least, each_slice
schema = Schema(columns=(Column(name="id", type="string"), Column(name="y", type="int")), key="id")
toy = Model(
    name="toy",
    source=Files(path="raw/{ds}.csv.gz", schema=schema),
    features=Features(build="toy_code:build", entity="id", event_time="at", numeric=("x",)),
    label=Label(compute="toy_code:label", delay="1d", source=Files(path="outcomes/{ds}.csv.gz", schema=schema)),
    gates=(at_least("roc_auc", 0.7),),
    start="2013-01-01",
)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a model that is right, and a base of its own."""
    (tmp_path / "toy_model.py").write_text(RIGHT)
    (tmp_path / "toy_code.py").write_text("def build(inputs): ...\n\ndef label(outcomes): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [key for key in os.environ if key.startswith("AIRFLOW_ML_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIRFLOW_ML_BASE", str(tmp_path / "base"))
    yield tmp_path
    for module in ("toy_model", "toy_code"):
        sys.modules.pop(module, None)


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def edit(project: Path, old: str, new: str) -> None:
    text = RIGHT.replace(old, new)
    assert text != RIGHT
    (project / "toy_model.py").write_text(text)


def test_a_right_declaration_passes(project):
    done = call("check", "toy_model:toy")
    assert done.exit_code == 0, done.output
    assert "toy: ok" in done.output


@pytest.mark.parametrize(
    ("old", "new", "field", "fix"),
    [
        ('gates=(at_least("roc_auc", 0.7),),', "", "Model.gates", "add it"),
        ('name="toy"', 'name="Toy Model"', "Model.name", "lower-case"),
        ('delay="1d"', 'delay="one day"', "Label.delay", "14d"),
        ('Column(name="y"', 'Column(name="label"', "Label.source", "have it delivered under another name"),
        ('numeric=("x",)', 'numerc=("x",)', "Features.numerc", "check the spelling"),
        ("{ds}.csv.gz", "all.csv.gz", "Files.path", "put '{ds}'"),
        ('"toy_code:build"', '"toy_code.build"', "Features.build", "package.module:function"),
        ('"toy_code:build"', '"toy_code:biuld"', "features.build", "define the function"),
        ('"toy_code:label"', '"no_such_module:label"', "label.compute", "install the package"),
        ('start="2013-01-01"', 'start="soon"', "Model.start", "fix: write a date like '2013-01-31'"),
        (
            'gates=(at_least("roc_auc", 0.7),)',
            'gates=(at_least("roc_auc", 0.7))',
            "Model.gates",
            "write (value,), with the",
        ),
        ('numeric=("x",)', 'numeric=("x")', "Features.numeric", "fix: write a list: (value,) in Python, with the"),
        ('type="int"', 'type="integer"', "Column.type", "fix: write 'string', 'int', 'float', 'bool' or 'timestamp'"),
        ("start=", 'training=Horovod(workers="two"), start=', "Horovod.workers", "fix: write a whole number"),
        ("start=", "training=Horovod(workers=0), start=", "Horovod.workers", "fix: choose 1 or more"),
        ("start=", "training=3, start=", "Model.training", "fix: write Horovod(…)"),
        ("start=", 'slices=("z",), start=', "slices: 'z' is neither", "fix: correct the name, or declare"),
        ('gates=(at_least("roc_auc", 0.7),)', "gates=()", "Model.gates", "fix: give at least 1"),
        ("0.7),)", '0.7), each_slice("z", "roc_auc", 0.6))', "Model.gates: each_slice('z')", "add 'z' to `slices`"),
        ("start=", 'serving=Serving(builder="toy_code:biuld"), start=', "serving.builder", "define the function"),
        ("start=", 'training=Horovod(params={"epocs": 3}), start=', "training.params.epocs", "epochs, batch_size"),
        ("start=", 'training=Horovod(params={"epochs": -3}), start=', "training.params.epochs", "choose 1 or more"),
        (
            "start=",
            'training=Horovod(params={"hidden": "big"}), start=',
            "training.params.hidden",
            "(value,) in Python",
        ),
        (
            "start=",
            'training=Horovod(workers=4, params={"batch_size": 2}), start=',
            "training.params.batch_size: a step of 2 rows leaves some of the 4 processes",
            "choose 4 or more, or fewer workers",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_field_and_the_fix(project, old, new, field, fix):
    edit(project, old, new)
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    assert field in done.output
    assert fix in done.output
    assert "Traceback" not in done.output


def test_a_declaration_that_cannot_become_pods_is_refused(project, monkeypatch):
    edit(project, "gates=", "training=Horovod(workers=4, gpus_per_worker=2), gates=")
    pods = {"kind": "kubernetes", "namespace": "ml", "template": {"spec": {"restartPolicy": "Always"}}}
    monkeypatch.setenv("AIRFLOW_ML_COMPUTES", json.dumps({"train": pods, "score": pods}))
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    assert "spec.restartPolicy is 'Always'" in done.output
    monkeypatch.setenv("AIRFLOW_ML_COMPUTES", json.dumps({"train": pods | {"template": {}}}))
    assert "model toy, stage train: no image is declared for the pods" in call("check", "toy_model:toy").output
    right = pods | {"template": {}, "image": "acme/trainer:1"}
    monkeypatch.setenv("AIRFLOW_ML_COMPUTES", json.dumps({"train": right | {"max_gpus": 7}}))
    assert "4 workers of 2 GPUs are 8, and one job may ask for 7" in call("check", "toy_model:toy").output
    monkeypatch.setenv("AIRFLOW_ML_COMPUTES", json.dumps({"train": right}))
    assert call("check", "toy_model:toy").exit_code == 0


def test_a_refused_model_is_not_printed_whole(project):
    edit(project, "0.7),)", '0.7), each_slice("z", "roc_auc", 0.6))')
    assert "given:" not in call("check", "toy_model:toy").output


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("x = (\n", "SyntaxError", 1),
        ("\nno_such_name\n", "NameError", 2),
        ("import json\n\njson.loads('[')\n", "JSONDecodeError", 3),
        ("import sys\nsys.exit(3)\n", "SystemExit", 2),
        ("import no_such_package\n", "no_such_package", 1),
    ],
)
def test_a_model_file_that_cannot_be_imported_is_named_with_its_line(project, text, says, line):
    (project / "toy_model.py").write_text(text)
    for command in (("check", "toy_model:toy"), ("run", "ingest", "toy_model:toy", "--from", "2013-01-01")):
        done = call(*command)
        assert done.exit_code == 1
        assert says in done.output
        assert f"toy_model.py, line {line}" in done.output
        assert isinstance(done.exception, SystemExit), "an error for people, not a traceback"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no_such_name\n", ["ended with NameError", "plat.py, line 1", "remedy: correct the file"]),
        ("prod = (\n", ["ended with SyntaxError", "plat.py, line 1"]),
        ("import sys\nsys.exit(3)\n", ["ended with SystemExit", "plat.py, line 2"]),
        ("from airflow_ml import Platform\nprod = Platform(base='here')\n", ["Platform.base: 'here' is relative"]),
        ("prod = 3\n", ["'plat:prod' is not a Platform"]),
    ],
)
def test_a_platform_that_cannot_be_imported_is_named_with_its_line(project, monkeypatch, text, says):
    (project / "plat.py").write_text(text)
    monkeypatch.delenv("AIRFLOW_ML_BASE")
    monkeypatch.setenv("AIRFLOW_ML_PLATFORM", "plat:prod")
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), "an error for people, not a traceback"
    for each in says:
        assert each in done.output


@pytest.mark.parametrize("command", [["check", "toy_model:toy"], ["status", "toy_model:toy"], ["serve"]])
def test_every_command_finds_a_platform_of_the_working_folder(project, monkeypatch, command):
    (project / "plat_here.py").write_text(f"from airflow_ml import Platform\nprod = Platform(base={str(project)!r})\n")
    monkeypatch.delenv("AIRFLOW_ML_BASE")
    monkeypatch.setenv("AIRFLOW_ML_PLATFORM", "plat_here:prod")
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(project))])
    served = []
    monkeypatch.setattr("os.execvp", lambda program, argv: served.append(argv))
    done = call(*command)
    assert done.exit_code == 0, done.output
    assert bool(served) == (command == ["serve"])
    sys.modules.pop("plat_here", None)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"SERVING_GPRC": "models:8500"},
            ["AIRFLOW_ML_SERVING_GPRC: there is no such setting", "AIRFLOW_ML_SERVING_GRPC"],
        ),
        ({"SERVING_GRPC": "nohost"}, ["serving_grpc: 'nohost' is no host:port", "write it like 'models:8500'"]),
        ({"SERVING_REST": "models:85010"}, ["serving_rest: 'models:85010' has no such port", "from 1 to 65535"]),
    ],
)
def test_a_wrong_setting_is_refused(project, monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(f"AIRFLOW_ML_{name}", value)
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    for each in says:
        assert each in done.output


def test_variables_that_others_read_are_not_settings(project, monkeypatch):
    for name in ("CONN_MODELS", "CONN_MODELS_PASSWORD", "TEST_KIT", "STUDIES", "GATEWAY_PORT", "GATEWAY_PORT_8600_TCP"):
        monkeypatch.setenv(f"AIRFLOW_ML_{name}", "something")
    assert call("check", "toy_model:toy").exit_code == 0


def test_a_model_whose_name_is_anothers_in_this_base_is_refused(project):
    owner = project / "base/models/toy.json"
    owner.parent.mkdir(parents=True)
    owner.write_text(json.dumps({"declared_in": "other.model", "build": "other.code:build"}))
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    assert "'toy' belongs to the model declared in 'other.model'" in done.output
    owner.write_text("")
    assert "is damaged: JSONDecodeError" in call("check", "toy_model:toy").output
    owner.unlink()
    assert call("check", "toy_model:toy").exit_code == 0
    assert list((project / "base").rglob("*.json")) == [], "a check binds nothing"


def test_what_entry_points_print_is_not_the_answer(project):
    noisy = "import atexit\natexit.register(print, 'bye')\nprint('hello', end='')\n"
    (project / "toy_code.py").write_text(noisy + "def build(inputs): ...\n\ndef label(outcomes): ...\n")
    done = call("check", "toy_model:toy")
    assert done.exit_code == 0, done.output


def test_checking_imports_entry_points_in_another_process(project):
    (project / "toy_code.py").write_text("import os\nos._exit(7)\n")
    done = call("check", "toy_model:toy")
    assert done.exit_code == 1
    assert "ended the process" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "ingest", "no_such_model"), "no model 'no_such_model'"),
        (("run", "trian", "toy_model:toy", "--from", "2013-01-01"), "there is no stage 'trian'"),
        (("run", "ingest", "toy_model:toy"), "needs a window"),
        (("run", "ingest", "toy_model:toy", "--from", "2013-02-01", "--to", "2013-01-01"), "remedy: swap"),
        (("run", "ingest", "toy_model:toy", "--from", "yesterday"), "2013-01-31"),
        (("run", "ingest", "toy_model:toy", "--from", "2013-01-01", "--param", "version"), "has no value"),
        (("run", "ingest", "toy_model:toy", "--from", "2013-01-01"), "has not landed"),
        (("run", "ingest", "toy_model:toy", "--from", "2012-12-31", "--to", "2013-01-01"), "choose days inside"),
    ],
)
def test_a_wrong_command_says_what_and_the_remedy(project, arguments, says):
    done = call(*arguments)
    assert done.exit_code == 1
    assert says in done.output
    assert "Traceback" not in done.output


def test_a_new_base_has_a_status(project):
    done = call("status", "toy_model:toy", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["champions"] == []
    assert "none yet" in call("status", "toy_model:toy").output


def test_the_command_line_starts_without_an_engine():
    code = "import sys, airflow_ml.cli; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "tensorflow", "pyspark", "pandas", "mlflow", "deltalake", "evidently"):
        assert f"'{heavy}'" not in loaded
