"""The training set: pinned, labelled with what was known, split by time, the same bytes each time."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.examples.flights.world import World
from airflow_ml.lifecycle.errors import BadTrainingSet, MissingPartition
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.lifecycle.statistics import Statistics
from airflow_ml.lifecycle.windows import Window
from airflow_ml.stages.training_set import ROW_GROUP_ROWS, _write
from tests.support.killing import FILE_MOMENTS, run_in_process
from tests.unit.data.conftest import SHORT, deliver_outcomes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WINDOW = ("2013-01-01", "2013-01-12")
TABLES = ("raw", "outcomes", "features")


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """A training set of twelve days, and its base."""
    base = built.copy(tmp_path_factory.mktemp("made"), *TABLES)
    return base, base.run("training_set", *WINDOW)


def read(result, name: str) -> pd.DataFrame:
    return pq.read_table(result.outputs[name].uri).to_pandas()


def test_the_splits_are_the_labelled_rows_in_order_of_time(made):
    base, result = made
    outcomes = base.table("outcomes").read(Window.of(*WINDOW)).to_pandas()
    labelled = outcomes[outcomes["label"].notna()]
    assert result.summary["days"] == {
        "train": ["2013-01-01", "2013-01-08"],
        "validation": ["2013-01-09", "2013-01-10"],
        "test": ["2013-01-11", "2013-01-12"],
    }
    for name, (first, last) in result.summary["days"].items():
        split = read(result, name)
        wanted = labelled[labelled["ds"].astype(str).between(first, last)]
        assert dict(zip(split["flight_id"], split["label"], strict=True)) == {
            id_: int(label) for id_, label in zip(wanted["flight_id"], wanted["label"], strict=True)
        }
        assert split["scheduled_departure"].is_monotonic_increasing
        assert result.summary["rows"][name] == len(split)
        assert result.summary["positive_share"][name] == pytest.approx(split["label"].mean(), abs=1e-6)
    assert result.rows == len(labelled)
    assert result.summary["unlabelled"] == len(outcomes) - len(labelled) > 0


def test_the_columns_are_those_of_the_contract(made):
    _, result = made
    schema = pq.read_schema(next(Path(result.outputs["train"].uri).glob("*.parquet")))
    features = SHORT.features
    assert schema.names == [features.entity, features.event_time, *features.columns, "label", "ds"]
    assert schema.field("label").type == pa.int8()
    assert {schema.field(name).type for name in features.numeric} == {pa.float64()}
    assert {schema.field(name).type for name in features.categorical} == {pa.string()}


def test_equal_inputs_give_equal_bytes(made, tmp_path):
    base, result = made
    again = base.copy(tmp_path, *TABLES).run("training_set", *WINDOW)
    assert not again.reused
    assert again.fingerprint == result.fingerprint
    for name in ("train", "validation", "test", "preprocessing", "statistics"):
        assert again.outputs[name].sha256 == result.outputs[name].sha256, name


@pytest.mark.parametrize("moment", FILE_MOMENTS)
def test_one_that_was_killed_before_or_after_its_result_is_the_same_after_a_retry(made, tmp_path, moment):
    base, result = made
    killed = base.copy(tmp_path, *TABLES)
    code, _, output = run_in_process(killed.request("training_set", *WINDOW), moment)
    assert code == -9, output
    again = killed.run("training_set", *WINDOW)
    assert again.reused == (moment == "after result")
    for name in result.outputs.keys() - {"manifest"}:  # which names the tables of its base
        assert again.outputs[name].sha256 == result.outputs[name].sha256, name
    assert len(list(Path(again.uri).parent.glob("attempt-*"))) == 1


def test_what_is_learnt_comes_from_the_train_split_alone(made):
    base, result = made
    train = read(result, "train")
    fitted = Preprocessing.from_json(Path(result.outputs["preprocessing"].uri).read_text())
    scaling = {scaling.name: scaling for scaling in fitted.numeric}
    assert scaling["distance"].mean == pytest.approx(train["distance"].mean())
    assert scaling["temp"].fill == train["temp"].median()
    weekdays = next(vocabulary for vocabulary in fitted.categorical if vocabulary.name == "weekday")
    assert set(weekdays.tokens) == set(train["weekday"])
    statistics = Statistics.model_validate_json(Path(result.outputs["statistics"].uri).read_text())
    raw = base.table("raw").read(Window.of("2013-01-01", "2013-01-08")).to_pandas()
    assert statistics.days == ("2013-01-01", "2013-01-08")
    assert statistics.rows == len(raw)
    assert statistics.daily_rows == (raw.groupby("ds").size().min(), raw.groupby("ds").size().max())
    carrier, seats = statistics.column("carrier"), statistics.column("plane_seats")
    assert carrier.categories == pytest.approx(raw["carrier"].value_counts(normalize=True).to_dict())
    assert seats.null_share == pytest.approx(raw["plane_seats"].isna().mean())
    assert (seats.numeric.minimum, seats.numeric.maximum) == (raw["plane_seats"].min(), raw["plane_seats"].max())
    assert statistics.column("flight_id").categories is None, "an identifier has no categories"


def test_the_set_is_pinned(made):
    base, result = made
    for name in TABLES:
        pin = result.summary["pins"][name]
        assert pin == {"table": name, "uri": str(base.table(name).path), "version": base.table(name).snapshot().version}
    manifest = json.loads(Path(result.outputs["manifest"].uri).read_text())
    assert manifest["pins"] == result.summary["pins"]


def test_outcomes_after_the_window_change_nothing_and_those_inside_do(made, tmp_path):
    base, result = made
    other = base.copy(tmp_path, *TABLES)
    first = other.run("training_set", *WINDOW)
    deliver_outcomes(other, Window.of("2013-01-13", "2013-01-15"))
    assert other.run("training_set", *WINDOW).reused
    World(other.path / "landing").deliver_outcomes(Window.of("2013-01-03"))
    label = SHORT.label.model_copy(update={"compute": "tests.unit.data.builds:never"})
    other.run("ingest_outcomes", "2013-01-03", model=SHORT.model_copy(update={"label": label}))
    changed = other.run("training_set", *WINDOW)
    assert changed.fingerprint != first.fingerprint == result.fingerprint
    assert changed.summary["positive_share"]["train"] < first.summary["positive_share"]["train"]


def test_outcomes_that_have_not_landed_are_named_with_the_remedy(made):
    base, _ = made
    with pytest.raises(MissingPartition, match=r"2013-01-13.*airflow-ml run ingest_outcomes flights --from 2013-01-01"):
        base.run("training_set", "2013-01-01", "2013-01-13")


@pytest.mark.parametrize(
    ("compute", "says"), [("never", "all .* labels are negative"), ("unknown", "no row has a label")]
)
def test_labels_that_nothing_can_be_learnt_from_are_refused(ingested, made, tmp_path, compute, says):
    base = made[0].copy(tmp_path, "raw", "features")
    shutil.copytree(ingested.path / "landing", tmp_path / "landing")
    label = SHORT.label.model_copy(update={"compute": f"tests.unit.data.builds:{compute}"})
    base.model = SHORT.model_copy(update={"label": label})
    base.run("ingest_outcomes", *WINDOW)
    with pytest.raises(BadTrainingSet, match=says):
        base.run("training_set", *WINDOW)


def test_fewer_labels_than_declared_are_refused(made):
    base, _ = made
    few = SHORT.model_copy(update={"training": SHORT.training.model_copy(update={"min_labels": 100_000})})
    with pytest.raises(BadTrainingSet, match=r"fewer than training.min_labels=100000"):
        base.run("training_set", *WINDOW, model=few)


def test_a_window_without_days_to_train_on_is_refused(made):
    base, _ = made
    with pytest.raises(BadTrainingSet, match="4 days leave none to train on"):
        base.run("training_set", "2013-01-01", "2013-01-04")


def test_a_split_is_written_in_row_groups_that_ranks_can_share(tmp_path):
    _write(pa.table({"x": range(2 * ROW_GROUP_ROWS + 5)}), tmp_path / "train")
    file = pq.ParquetFile(tmp_path / "train" / "part-00000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [ROW_GROUP_ROWS] * 2 + [5]
