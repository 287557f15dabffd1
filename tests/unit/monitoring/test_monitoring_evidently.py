"""Real reports on realistic frames: what drifts, what cannot be judged, and what a person opens."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_ml.lifecycle.observations import Observation
from airflow_ml.monitoring.columns import Watched, bearable, comparable
from airflow_ml.monitoring.judge import Judgement, Side, judge
from airflow_ml.monitoring.pages import with_header
from airflow_ml.monitoring.samples import Sample, draw
from tests.unit.monitoring.conftest import REFERENCE, WEEK, rows, watched_model

pytestmark = pytest.mark.slow

SEEN = Observation(model="small", window=WEEK, model_version=1, rows=2100, labelled=2100, coverage=1.0)


def side(frame: pd.DataFrame) -> Side:
    return Side(Sample(frame, len(frame)), frame[["ds", "probability", "label"]])


def judged(frame: pd.DataFrame, reference: pd.DataFrame | None = None, seen: Observation = SEEN, **policy) -> Judgement:
    past = rows(REFERENCE, seed=1) if reference is None else reference
    return judge(seen, side(frame), side(past), watched_model(**policy))


def column(judgement: Judgement, name: str):
    return {c.column: c for c in judgement.observation.columns}[name]


@pytest.fixture(scope="module")
def healthy() -> Judgement:
    return judged(rows(WEEK, seed=2))


@pytest.fixture(scope="module")
def shifted() -> Judgement:
    return judged(rows(WEEK, seed=2, shift=1.0, skill=0.0, rate=0.5))


def test_the_same_world_passes_everything(healthy):
    seen = healthy.observation
    assert (seen.data_drift, seen.prediction_drift, seen.target_drift, seen.performance) == ("pass",) * 4
    assert seen.drifted_columns == ()
    assert seen.drifted_share == 0.0
    assert all(c.distance < 0.1 for c in seen.columns)
    assert seen.roc_auc > 0.8


def test_a_shift_is_measured_in_standard_deviations_and_fails(shifted):
    seen = shifted.observation
    assert seen.data_drift == "fail"
    assert set(seen.drifted_columns) == {"x", "y"}
    assert seen.drifted_share == pytest.approx(2 / 3)
    assert column(shifted, "x").distance == pytest.approx(1.0, abs=0.1)
    assert column(shifted, "carrier").status == "pass"


def test_a_model_that_ranks_no_longer_fails_its_performance_test(shifted):
    seen = shifted.observation
    assert seen.performance == "fail"
    assert seen.roc_auc == pytest.approx(0.5, abs=0.05)
    assert seen.target_drift == "fail"
    assert seen.positive_rate == pytest.approx(0.5, abs=0.05)
    assert seen.positive_rate_reference == pytest.approx(0.25, abs=0.05)


def test_evidentlys_status_decides(shifted):
    failed = {t["column"] for t in shifted.drift.tests if t["kind"] == "ValueDrift" and t["status"] == "FAIL"}
    assert failed == set(shifted.observation.drifted_columns)
    auc = next(t for t in shifted.performance.tests if t["kind"] == "RocAuc")
    assert auc["status"] == "FAIL"
    assert "0.6" in auc["name"]


def test_a_constant_column_has_not_drifted_and_one_that_moves_has():
    past = rows(REFERENCE, seed=1).assign(x=3.0)
    assert column(judged(rows(WEEK, seed=2).assign(x=3.0), past), "x").status == "pass"
    assert column(judged(rows(WEEK, seed=2).assign(x=4.0), past), "x").status == "fail"


def test_a_column_without_any_value_is_broken_input_when_the_reference_has_some():
    found = judged(rows(WEEK, seed=2).assign(x=np.nan, carrier=None))
    assert column(found, "x").status == "fail"
    assert column(found, "x").distance is None
    assert column(found, "x").missing == 1.0
    assert set(found.observation.broken) == {
        "column x has no value in the whole window; the reference has",
        "column carrier has no value in the whole window; the reference has",
    }


def test_a_column_that_the_reference_never_had_is_left_out_and_named():
    found = judged(rows(WEEK, seed=2, shift=1.0), rows(REFERENCE, seed=1).assign(x=np.nan))
    assert column(found, "x").status == "not_judged"
    assert found.observation.broken == ()
    assert found.observation.drifted_share == 0.5
    assert "the reference has no value: x" in found.observation.notes[0]


def test_nothing_to_compare_is_not_judged():
    nothing = {"x": np.nan, "y": np.nan, "carrier": None}
    found = judged(rows(WEEK, seed=2).assign(**nothing), rows(REFERENCE, seed=1).assign(**nothing))
    assert found.observation.data_drift == "not_judged"
    assert found.observation.drifted_share is None
    assert found.observation.prediction_drift == "pass"


def test_more_missing_values_are_drift_though_the_values_are_the_same():
    found = judged(rows(WEEK, seed=2, missing=0.3), rows(REFERENCE, seed=1, missing=0.05))
    assert column(found, "y").status == "fail"
    assert column(found, "y").distance < 0.1
    assert column(found, "y").missing == pytest.approx(0.3, abs=0.03)
    few = judged(rows(WEEK, seed=2, missing=0.1), rows(REFERENCE, seed=1, missing=0.05))
    assert column(few, "y").status == "pass"


def test_a_new_category_and_missing_categories_move_the_distance():
    new = judged(rows(WEEK, seed=2, carriers=("AA", "BB", "ZZ")))
    assert column(new, "carrier").status == "fail"
    frame = rows(WEEK, seed=2)
    frame.loc[frame.index % 3 == 0, "carrier"] = None
    assert column(judged(frame), "carrier").status == "fail"


def test_a_rare_new_category_is_not_drift():
    frame = rows(WEEK, seed=2)
    frame.loc[frame.index % 100 == 0, "carrier"] = "ZZ"
    assert column(judged(frame), "carrier").status == "pass"


def test_many_categories_do_not_drift_by_chance():
    names = tuple(f"N{n}" for n in range(400))
    small = rows(WEEK, seed=2, per_day=80, carriers=names)
    assert column(judged(small, rows(REFERENCE, seed=1, carriers=names)), "carrier").status == "pass"


def test_without_labels_drift_is_judged_and_performance_is_not():
    frame = rows(WEEK, seed=2, shift=1.0).assign(label=np.nan)
    found = judged(frame, seen=SEEN.model_copy(update={"labelled": 0, "coverage": 0.0}))
    seen = found.observation
    assert (seen.data_drift, seen.performance, seen.target_drift) == ("fail", "not_judged", "not_judged")
    assert seen.roc_auc is None
    assert seen.positive_rate is None
    assert "0.0% of the predictions" in seen.notes[0]
    assert found.performance.html == ""


def test_labels_of_one_class_leave_performance_unjudged():
    seen = judged(rows(WEEK, seed=2).assign(label=0.0)).observation
    assert seen.performance == "not_judged"
    assert seen.target_drift == "fail"
    assert "all labels of the window are the same" in seen.notes[0]


def test_probabilities_that_are_not_numbers_are_left_out():
    frame = rows(WEEK, seed=2)
    frame.loc[frame.index % 2 == 0, "probability"] = np.nan
    seen = judged(frame).observation
    assert (seen.prediction_drift, seen.performance) == ("pass", "pass")
    none = judged(frame.assign(probability=np.nan)).observation
    assert (none.prediction_drift, none.performance) == ("not_judged", "not_judged")
    assert none.data_drift == "pass"


def test_a_tiny_window_is_compared_and_does_not_crash():
    found = judged(rows(list(WEEK)[:1], seed=2, per_day=8))
    assert found.observation.data_drift in {"pass", "fail"}


def test_prediction_drift_is_of_the_probability():
    frame = rows(WEEK, seed=2)
    seen = judged(frame.assign(probability=np.clip(frame["probability"] + 0.4, 0, 1))).observation
    assert seen.prediction_drift == "fail"
    assert seen.data_drift == "pass"
    assert seen.performance == "pass"


def test_the_limit_of_drifted_columns_is_reached_not_passed():
    frame = rows(WEEK, seed=2, shift=1.0)
    assert judged(frame, drifted_share=0.66).observation.data_drift == "fail"
    assert judged(frame, drifted_share=0.68).observation.data_drift == "pass"


def test_only_watched_columns_count():
    found = judged(rows(WEEK, seed=2, shift=1.0), columns=("carrier", "y"))
    assert [c.column for c in found.observation.columns] == ["carrier", "y"]
    assert found.observation.drifted_share == 0.5


def test_the_same_rows_give_the_same_observation(shifted):
    again = judged(rows(WEEK, seed=2, shift=1.0, skill=0.0, rate=0.5))
    assert again.observation.model_dump_json() == shifted.observation.model_dump_json()


# The page that a person opens.


def test_the_page_needs_no_network_and_says_what_it_saw(shifted):
    seen = shifted.observation.model_copy(
        update={"sampled": {"window": (2100, 6500), "reference": (4200, 9000)}, "notes": ("<b>a note</b>",)}
    )
    page = with_header(shifted.drift.html, "small: drift", seen, {"data_drift": "columns", "performance": "labels"})
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert not re.search(r"@import\s+(url\()?[\"']?https?:", page)
    assert not re.search(r"url\(\s*[\"']?https?:", page)
    assert "2,100 of 6,500 rows" in page
    assert "&lt;b&gt;a note&lt;/b&gt;" in page
    assert page.index("<body>") < page.index("Verdicts") < page.index('id="root_metric')
    assert page.count("<body>") == 1
    table = page[page.index("Columns</h2>") : page.index("</section>")]
    assert table.index("<td>y</td>") < table.index("<td>carrier</td>")


def test_a_page_without_a_report_is_a_page(healthy):
    page = with_header("", "nothing", healthy.observation, {"data_drift": "columns"})
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>")


# Samples and columns.


def scan(frame: pd.DataFrame, batch: int = 700):
    def read(columns):
        yield from pa.Table.from_pandas(frame, preserve_index=False).select(list(columns)).to_batches(batch)

    return read


def test_a_sample_is_the_same_whatever_the_order_and_another_with_another_seed():
    frame = rows(WEEK, seed=2)
    shuffled = frame.sample(frac=1.0, random_state=3)
    first = draw(scan(frame), ("ds", "id"), ("x",), 500, seed=1)
    second = draw(scan(shuffled, 123), ("ds", "id"), ("x",), 500, seed=1)
    pd.testing.assert_frame_equal(first.frame, second.frame)
    assert (len(first.frame), first.of) == (500, len(frame))
    other = draw(scan(frame), ("ds", "id"), ("x",), 500, seed=2)
    assert set(other.frame["id"]) != set(first.frame["id"])


def test_a_sample_represents_the_whole():
    frame = rows(WEEK, seed=2, per_day=2000)
    frame["x"] = np.arange(len(frame))
    sample = draw(scan(frame), ("ds", "id"), ("x",), 1000, seed=1).frame
    assert sample["x"].mean() == pytest.approx(frame["x"].mean(), rel=0.06)
    assert sample.groupby("ds").size().between(100, 190).all()


def test_fewer_rows_than_the_limit_are_all_taken():
    frame = rows(WEEK, seed=2, per_day=5)
    taken = draw(scan(frame), ("ds", "id"), ("x",), 500, seed=1)
    assert sorted(taken.frame["id"]) == sorted(frame["id"])
    assert draw(scan(frame.iloc[:0]), ("ds", "id"), ("x",), 500, seed=1).of == 0


def test_no_more_categories_than_chance_allows():
    threshold = 0.1
    for window, reference in ((500, 10_000), (6_500, 10_000), (50, 50)):
        kept = bearable(window, reference, threshold)
        assert kept == 2 or (kept - 1) / 8 * (1 / window + 1 / reference) <= (threshold / 2) ** 2
    rare = Watched("carrier", "categorical", threshold)
    frame = rows(WEEK, seed=2, per_day=80, carriers=tuple(f"N{n}" for n in range(400)))
    current, past = comparable(frame["carrier"], frame["carrier"], rare)
    assert current.nunique() == past.nunique() == bearable(560, 560, threshold) + 1
    assert "(other)" in set(current)
    assert replace(rare, kind="numeric").method == "wasserstein"
