"""What the benches compute by themselves: tables as text, the files they generate, the days they learn from."""

import importlib
import json
from datetime import date
from pathlib import Path

import pytest

from airflow_ml.lifecycle.windows import Window
from tests.bench.__main__ import BENCHES, CLUSTER_BENCHES
from tests.bench.base import NIGHT
from tests.bench.contestants import month_of, training_window
from tests.bench.dag_files import model_file, same_shape
from tests.bench.loop import Played
from tests.bench.quality import MONTHS, decided_table, months_table
from tests.bench.report import Report, Table, markdown, median, peak_rss_mib, show, text
from tests.bench.serving import slope

TABLE = Table("Speed", ("what", "rows/s", "ratio"), (("ours", 12345, 0.75), ("theirs", None, 123.456)))


@pytest.mark.parametrize("name", [*BENCHES, *CLUSTER_BENCHES])
def test_each_bench_can_be_loaded_and_says_what_it_measures(name):
    bench = importlib.import_module(f"tests.bench.{name}")
    assert bench.__doc__
    assert callable(bench.run)


def test_cells_are_shown_with_the_digits_that_matter():
    assert [show(cell) for cell in (None, 0.12345, 1.5, 42.42, 1234.6, 12345, "x")] == [
        "–",
        "0.1235",
        "1.50",
        "42.4",
        "1,235",
        "12,345",
        "x",
    ]


def test_a_table_as_text_is_aligned_and_as_markdown_pastes_into_a_readme():
    assert text(TABLE).splitlines()[2:] == [
        "what    rows/s   ratio",
        "------  ------  ------",
        "ours    12,345  0.7500",
        "theirs       –     123",
    ]
    assert markdown(TABLE).splitlines() == [
        "| what | rows/s | ratio |",
        "|---|---:|---:|",
        "| ours | 12,345 | 0.7500 |",
        "| theirs | – | 123 |",
    ]


def test_a_report_is_written_with_its_machine_and_without_its_name(tmp_path):
    path = Report("speed", (TABLE,), ("a note",), {"day": date(2013, 1, 1)}).write(tmp_path)
    found = json.loads(path.read_text())
    assert found["tables"][0]["rows"][0] == ["ours", 12345, 0.75]
    assert found["details"] == {"day": "2013-01-01"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gib"] > 0
    assert set(found["machine"]) == {"cores", "memory_gib", "load", "cpu", "python", "system"}
    assert (tmp_path / "speed.md").read_text().startswith("**Speed**\n\n| what |")


def test_the_median_is_a_value_that_was_measured_and_memory_is_this_process_own():
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0]) == 2.0
    assert 5 < peak_rss_mib() < 100_000


def test_generated_dag_files_are_python_that_declares_what_they_say():
    namespace: dict[str, object] = {}
    source = model_file("flights_7").partition("\nfrom airflow_ml.pipelines")[0]
    exec(compile(source, "model_file", "exec"), namespace)
    assert namespace["flights"].name == "flights_7"  # type: ignore[attr-defined]
    shape = same_shape("m1_", {"data": 5, "release": 1})
    compile(shape, "same_shape", "exec")
    assert shape.count("with DAG(") == 2
    assert "'m1_data'" in shape


def test_a_month_learns_from_the_half_year_whose_labels_are_known_at_its_first_midnight():
    july = training_window(month_of(7).start)
    assert (july.start, july.end) == (date(2013, 1, 1), date(2013, 6, 29))
    for month in MONTHS:
        window = training_window(month_of(month).start)
        assert len(window) == 180
        assert (month_of(month).start - window.end).days == 2
    assert (month_of(12).end, len(NIGHT)) == (date(2013, 12, 31), 1)
    assert training_window(date(2013, 3, 1)).start == date(2013, 1, 1)


def test_the_tables_of_quality_say_where_the_loop_retrained_and_compare_it_from_august_on():
    row = {"flights": 100, "late": 0.25, "lightgbm": 0.7, "network": 0.71, "frozen": 0.68, "loop": 0.69}
    row |= {"versions": "v1", "retrained": ""}
    rows = {month: dict(row) for month in MONTHS}
    rows[12] |= {"retrained": "15 December: v2 passed", "versions": "v1, v2", "loop": 0.74}
    table = months_table(rows)
    assert {len(line) for line in table.rows} == {len(table.columns)}
    july, december, mean = table.rows[0], table.rows[-2], table.rows[-1]
    assert july[6:] == (None, None, None, "v1", None)
    assert december[-2:] == ("v1, v2", "15 December: v2 passed")
    assert mean[5:9] == pytest.approx((0.01, 0.68, 0.70, 0.02))


def test_the_weeks_that_drifted_are_shown_with_what_became_of_them():
    numbers = {"drifted_share": 0.4, "roc_auc": 0.66}
    days = (date(2013, 12, 1), date(2013, 12, 8), date(2013, 12, 15))
    verdicts = ("healthy", "retrain", "cooling_down")
    decisions = [
        {"window_end": day, "decision": verdict, **numbers} for day, verdict in zip(days, verdicts, strict=True)
    ]
    trainings = [
        {"window": Window.of(date(2013, 1, 1), end), "version": version, "verdict": verdict}
        for version, (end, verdict) in enumerate(((date(2013, 6, 29), "passed"), (days[1], "rejected")), start=1)
    ]
    table = decided_table(Played(Path(), decisions, trainings))
    assert table.rows == (
        ("08 December", "40%", 0.66, "retrain", "v2 rejected"),
        ("15 December", "40%", 0.66, "cooling_down", None),
    )


def test_the_slope_is_that_of_the_line():
    assert slope([(0.0, 5.0), (10.0, 7.0), (20.0, 9.0)]) == pytest.approx(0.2)
    assert slope([(0.0, 5.0), (10.0, 5.5), (20.0, 5.0)]) == pytest.approx(0.0)
