"""Landing files that are refused: with the file, the row and the remedy, and nothing committed."""

import gzip
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_ml import Column, Files, Label, Schema, Volume, categories, in_range, nulls
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.errors import (
    AirflowMLError,
    BadFile,
    BaseError,
    CommitConflict,
    DataBroken,
    MissingPartition,
    SpecError,
)
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Platform
from airflow_ml.stages import _landing, _parsing, runner
from airflow_ml.stages._landing import LandingStage
from airflow_ml.stages._validated import not_validated, record
from airflow_ml.stages.runner import execute
from tests.support.models import small_model

SCHEMA = Schema(
    columns=(
        Column(name="id", type="string"),
        Column(name="n", type="int", checks=(in_range(0, 100),)),
        Column(name="x", type="float", nullable=True, checks=(nulls(0.5), in_range(-10, 10, severity="warn"))),
        Column(name="kind", type="string", checks=(categories(0.0, ("a", "b"), severity="warn"),)),
        Column(name="at", type="timestamp"),
    ),
    key="id",
    volume=Volume(min_ratio=0.5, max_ratio=2.0, trailing="7d", severity="warn"),
)
HEADER = "id,n,x,kind,at"
DAY = date(2013, 1, 1)


def rows(count: int, start: int = 0, **changes: str) -> str:
    values = {"n": "{i}", "x": "0.5", "kind": "a", "at": "2013-01-01 10:00:00"} | changes
    line = ",".join(["r{i}", values["n"], values["x"], values["kind"], values["at"]])
    return "\n".join([HEADER, *(line.format(i=i) for i in range(start, start + count))]) + "\n"


class Zone:
    """A landing zone, and the stages over it."""

    def __init__(self, base):
        self.base = base
        self.model = small_model(
            source=Files(path="raw/{ds}.csv.gz", schema=SCHEMA),
            label=Label(
                compute="tests.unit.data.labels:positive",
                delay="1d",
                source=Files(path="out/{ds}.csv.gz", schema=SCHEMA),
            ),
        )

    def put(self, day: str, content: str | bytes, folder: str = "raw", compress: bool = True) -> None:
        path = self.base / "landing" / folder / f"{day}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data, mtime=0) if compress else data)

    def request(self, stage: str, start: str, end: str | None = None) -> JobRequest:
        return JobRequest(
            stage=stage, model=self.model, platform=Platform(base=str(self.base)), window=Window.of(start, end)
        )

    def run(self, stage: str, start: str, end: str | None = None):
        return execute(self.request(stage, start, end))

    @property
    def raw(self) -> LakeTable:
        return LakeTable(self.base / "lake/small/raw")


@pytest.fixture
def zone(tmp_path):
    return Zone(tmp_path)


@pytest.mark.parametrize(
    ("content", "row", "what"),
    [
        (b"", None, "the file is empty"),
        (gzip.compress(b""), None, "the file is empty"),
        (gzip.compress(HEADER.encode() + b"\n"), None, "the file has a header and no rows"),
        (gzip.compress(rows(500).encode())[:-40], None, "the gzip file is cut off after "),
        (b"not gzip at all", None, "it is not a sound gzip file: "),
        (gzip.compress(rows(3).replace("kind,", "").encode()), 1, "columns missing: kind"),
        (gzip.compress(rows(3).replace("x,kind", "kind,x").encode()), 1, "columns in another order, from 'kind' on: "),
        (gzip.compress(rows(3).replace(HEADER, HEADER + ",extra").encode()), 1, "columns that are not declared: extra"),
        (gzip.compress((rows(3) + "r9,9\n").encode()), 5, "2 fields instead of 5"),
        (
            gzip.compress((rows(3) + "r0,5,0.5,a,2013-01-01 10:00:00\n").encode()),
            5,
            "key id='r0' stands in row 2 already",
        ),
        (
            gzip.compress((rows(3) + "r9,many,0.5,a,2013-01-01 10:00:00\n").encode()),
            5,
            "column 'n': 'many' cannot be read as int",
        ),
        (
            gzip.compress((rows(3) + "r9,1,0.5,a,yesterday\n").encode()),
            5,
            "column 'at': 'yesterday' cannot be read as timestamp",
        ),
        (gzip.compress((rows(3) + "r9,,0.5,a,2013-01-01 10:00:00\n").encode()), 5, "column 'n': an empty field"),
        (
            gzip.compress(rows(3).encode() + b"r9,1,0.5,\xff\xfe,2013-01-01 10:00:00\n"),
            5,
            f"byte 0xff at offset {len(rows(3)) + len('r9,1,0.5,')} is not utf-8",
        ),
    ],
    ids=[
        *("no bytes", "no text", "only a header", "truncated gzip", "not gzip", "column missing", "columns reordered"),
        *(
            "column new",
            "row cut short",
            "key twice",
            "not a number",
            "not a time",
            "null where none may be",
            "bad byte",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_file_the_row_and_the_remedy(zone, content, row, what):
    zone.put("2013-01-01", content, compress=False)
    with pytest.raises(BadFile) as refused:
        zone.run("ingest", "2013-01-01")
    assert refused.value.what.startswith(what)
    file = str(zone.base / "landing/raw/2013-01-01.csv.gz")
    assert refused.value.where == (file if row is None else f"{file}, row {row}")
    assert refused.value.remedy
    assert not zone.raw.exists(), "nothing is committed"


def test_a_file_that_has_not_landed_is_named(zone):
    with pytest.raises(BadFile, match="has not landed"):
        zone.run("ingest", "2013-01-01")


def test_a_committed_file_that_is_gone_is_told_and_ingested_again(zone):
    zone.put("2013-01-01", rows(3))
    zone.put("2013-01-02", rows(3, start=10, at="2013-01-02 10:00:00"))
    zone.run("ingest", "2013-01-01", "2013-01-02")
    (lost,) = zone.raw.files(Window.of("2013-01-02"))
    Path(lost).unlink()
    with pytest.raises(BaseError, match=f"{lost}: a committed file is gone"):
        zone.run("validate", "2013-01-01", "2013-01-02")
    assert zone.run("ingest", "2013-01-01", "2013-01-02").summary["built"] == ["2013-01-02"]
    assert zone.run("validate", "2013-01-01", "2013-01-02").rows == 6


def test_one_bad_day_refuses_its_whole_window_and_names_every_bad_file(zone):
    zone.put("2013-01-01", rows(3))
    zone.put("2013-01-02", b"", compress=False)
    zone.put("2013-01-03", rows(3, start=10, n="x"))
    with pytest.raises(BadFile) as refused:
        zone.run("ingest", "2013-01-01", "2013-01-03")
    assert "2013-01-02" in str(refused.value)
    assert "2013-01-03" in str(refused.value)
    assert not zone.raw.exists()


class TestEventTimes:
    """`at` is the event's time of the small model."""

    @pytest.mark.parametrize("at", ["2014-01-01 10:00:00", "2012-12-31 09:59:59", "2013-01-02 14:00:00"])
    def test_an_event_of_another_day_in_every_time_zone_is_refused_with_its_row(self, zone, at):
        zone.put("2013-01-01", rows(3) + f"r8,5,0.5,a,{at}\nr9,5,0.5,a,{at}\n")
        with pytest.raises(BadFile, match=f"column 'at': the event of {at[:16]} is not of 2013-01-01.*1 more") as bad:
            zone.run("ingest", "2013-01-01")
        assert bad.value.where.endswith("raw/2013-01-01.csv.gz, row 5")
        assert "correct the time at its source" in bad.value.remedy
        assert not zone.raw.exists()

    @pytest.mark.parametrize("at", ["2012-12-31 10:00:00", "2013-01-02 13:59:59"])
    def test_one_of_another_day_in_some_time_zones_is_told(self, zone, at):
        zone.put("2013-01-01", rows(20) + f"r99,5,0.5,a,{at}\n")
        zone.run("ingest", "2013-01-01")
        summary = zone.run("validate", "2013-01-01").summary
        assert summary["verdict"] == "warnings"
        assert f"column 'at': 1 events of another day ({at[:16]})" in summary["anomalies"][0]

    @pytest.mark.parametrize("at", ["2013-01-01 00:00:00", "2013-01-01 23:59:59.999999"])
    def test_midnight_and_the_last_moment_are_of_the_day(self, zone, at):
        zone.put("2013-01-01", rows(3, at=at))
        zone.run("ingest", "2013-01-01")
        assert zone.run("validate", "2013-01-01").summary["verdict"] == "ok"

    def test_outcomes_may_be_of_any_time(self, zone):
        zone.put("2013-01-01", rows(3, at="2013-02-01 10:00:00"), folder="out")
        assert zone.run("ingest_outcomes", "2013-01-01").rows == 3

    def test_a_raw_partition_that_was_committed_by_another_way_is_broken(self, zone, monkeypatch):
        monkeypatch.setattr(_parsing, "strangers", lambda times, day: iter(()))
        zone.put("2013-01-01", rows(3, at="2014-01-01 10:00:00"))
        zone.run("ingest", "2013-01-01")
        with pytest.raises(DataBroken, match="3 events of another day"):
            zone.run("validate", "2013-01-01")


def test_a_label_function_that_fails_is_named_and_its_traceback_is_in_the_log(zone, caplog):
    label = zone.model.label.model_copy(update={"compute": "tests.unit.data.labels:divided"})
    zone.model = zone.model.model_copy(update={"label": label})
    zone.put("2013-01-01", rows(2), folder="out")
    says = "entry point tests.unit.data.labels:divided: the function failed: ZeroDivisionError: no flights"
    with pytest.raises(SpecError, match=says):
        zone.run("ingest_outcomes", "2013-01-01")
    assert "in divided" in caplog.text


def test_the_same_content_delivered_for_two_days_is_refused(zone):
    zone.put("2013-01-01", rows(3))
    zone.put("2013-01-02", rows(3))
    with pytest.raises(BadFile, match="2013-01-0"):
        zone.run("ingest", "2013-01-01", "2013-01-02")


def test_a_good_file_becomes_typed_rows(zone):
    zone.put("2013-01-01", rows(3))
    assert zone.run("ingest", "2013-01-01").rows == 3
    table = zone.raw.read(columns=["id", "n", "x", "at"])
    assert table.schema.field("n").type == pa.int64()
    assert table.schema.field("x").type == pa.float64()
    assert pa.types.is_timestamp(table.schema.field("at").type)
    assert table["n"].to_pylist() == [0, 1, 2]


def test_a_corrected_file_replaces_exactly_its_partition(zone):
    for day, start in (("2013-01-01", 0), ("2013-01-02", 10)):
        zone.put(day, rows(3, start=start))
    zone.run("ingest", "2013-01-01", "2013-01-02")
    zone.put("2013-01-01", rows(5))
    result = zone.run("ingest", "2013-01-01", "2013-01-02")
    assert result.summary["built"] == ["2013-01-01"]
    assert zone.raw.snapshot().rows == {date(2013, 1, 1): 5, date(2013, 1, 2): 3}


def test_a_file_that_is_replaced_and_put_back_while_it_is_read_is_not_committed(zone, monkeypatch):
    """Before and after the work, the landing zone shows the same file; what was parsed is another one."""
    zone.put("2013-01-01", rows(3))
    delivered = zone.base / "landing/raw/2013-01-01.csv.gz"
    first, other = delivered.read_bytes(), gzip.compress(rows(5).encode(), mtime=0)
    build = LandingStage.build
    unpacked = _landing._unpacked

    def building(self, ctx, days, attempt):
        delivered.write_bytes(other)
        return build(self, ctx, days, attempt)

    def put_back(content, path):
        delivered.write_bytes(first)
        return unpacked(content, path)

    monkeypatch.setattr(LandingStage, "build", building)
    monkeypatch.setattr(_landing, "_unpacked", put_back)
    with pytest.raises(CommitConflict, match=r"inputs changed while the stage ran: .*2013-01-01"):
        zone.run("ingest", "2013-01-01")
    assert delivered.read_bytes() == first
    assert not zone.raw.exists(), "nothing is committed"
    monkeypatch.undo()
    assert zone.run("ingest", "2013-01-01").rows == 3


def test_outcomes_carry_the_label(zone):
    zone.put("2013-01-01", rows(3), folder="out")
    zone.run("ingest_outcomes", "2013-01-01")
    assert LakeTable(zone.base / "lake/small/outcomes").read()["label"].to_pylist() == [False, True, True]


class TestValidate:
    def test_good_data_is_ok(self, zone):
        zone.put("2013-01-01", rows(20))
        zone.run("ingest", "2013-01-01")
        assert zone.run("validate", "2013-01-01").summary["verdict"] == "ok"

    @pytest.mark.parametrize(
        ("changes", "says"), [({"n": "5{i}00"}, "n"), ({"x": ""}, "x")], ids=["out of range", "too many nulls"]
    )
    def test_a_check_of_severity_fail_stops_and_leaves_a_page(self, zone, changes, says):
        zone.put("2013-01-01", rows(20, **changes))
        zone.run("ingest", "2013-01-01")
        with pytest.raises(DataBroken, match=says) as broken:
            zone.run("validate", "2013-01-01")
        page = next(iter(broken.value.reports.values()))["uri"]
        assert says in Path(page).read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        "changes", [{"kind": "unheard"}, {"x": "11"}], ids=["unseen category", "out of a range that warns"]
    )
    def test_a_check_of_severity_warn_is_told_and_goes_on(self, zone, changes):
        zone.put("2013-01-01", rows(20, **changes))
        zone.run("ingest", "2013-01-01")
        result = zone.run("validate", "2013-01-01")
        assert result.summary["verdict"] == "warnings"
        assert result.reports["anomalies"].media_type == "text/html"

    def test_a_day_of_unusual_volume_is_told(self, zone):
        for n in range(1, 6):
            zone.put(f"2013-01-0{n}", rows(20, start=100 * n, n="1", at=f"2013-01-0{n} 10:00:00"))
        zone.put("2013-01-06", rows(2, start=900, n="1", at="2013-01-06 10:00:00"))
        zone.run("ingest", "2013-01-01", "2013-01-06")
        assert zone.run("validate", "2013-01-05").summary["verdict"] == "ok"
        assert zone.run("validate", "2013-01-06").summary["verdict"] == "warnings"

    def test_a_pass_is_kept_in_the_lake_and_a_later_refusal_takes_it_back(self, zone):
        """A check of the champion's statistics can refuse what passed before there was a champion."""
        zone.put("2013-01-01", rows(20))
        zone.put("2013-01-02", rows(20, start=50, kind="c"))
        zone.run("ingest", "2013-01-01", "2013-01-02")
        zone.run("validate", "2013-01-01", "2013-01-02")
        ctx = runner.identify(zone.request("validate", "2013-01-01", "2013-01-02"), runner.stage_of("validate"))
        raw = zone.raw.fences(ctx.window)
        assert not_validated(ctx, list(ctx.window)) == []
        record(ctx, raw, {date(2013, 1, 2): "an unseen category"})
        assert not_validated(ctx, list(ctx.window)) == [date(2013, 1, 2)]
        again = zone.run("validate", "2013-01-01", "2013-01-02")
        assert not again.reused, "the result is there, but what it says is no longer true"
        assert not_validated(ctx, list(ctx.window)) == []
        version = ctx.table("validated").snapshot().version
        assert zone.run("validate", "2013-01-01", "2013-01-02").reused
        assert ctx.table("validated").snapshot().version == version
        staged = [path.name for path in ctx.table("validated").path.glob("staged-*/*/*")]
        assert staged == ["verdict.parquet"], "what the refusal said; a pass leaves no folder"
        assert len(list(ctx.table("validated").path.glob("staged-*"))) == 1

    def test_of_a_window_with_a_broken_day_no_day_has_passed(self, zone):
        zone.put("2013-01-01", rows(20))
        zone.put("2013-01-02", rows(20, start=50, n="500"))
        zone.run("ingest", "2013-01-01", "2013-01-02")
        with pytest.raises(DataBroken):
            zone.run("validate", "2013-01-01", "2013-01-02")
        ctx = runner.identify(zone.request("validate", "2013-01-01", "2013-01-02"), runner.stage_of("validate"))
        assert not_validated(ctx, list(ctx.window)) == list(ctx.window)
        zone.run("validate", "2013-01-01")
        assert not_validated(ctx, list(ctx.window)) == [date(2013, 1, 2)]

    def test_a_partition_that_is_not_there_is_named(self, zone):
        with pytest.raises(MissingPartition, match="airflow-ml run ingest small"):
            zone.run("validate", "2013-01-01")


def test_every_refusal_is_an_error_of_ours_with_a_remedy(zone):
    zone.put("2013-01-01", b"\x1f\x8b garbage", compress=False)
    with pytest.raises(AirflowMLError) as refused:
        zone.run("ingest", "2013-01-01")
    assert "Remedy:" in str(refused.value)
