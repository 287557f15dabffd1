"""The checks of validation, made by pandera: of the files' columns, of every value, and of each day's profile.

The profile of a day is one row: its null shares, its shares of unseen categories, its volume. So half a year is three
checks of a frame, not three for each day.

Source: https://pandera.readthedocs.io/en/stable/polars.html
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.anomalies import Anomaly, Kind
from airflow_ml.lifecycle.statistics import Statistics
from airflow_ml.spec import Schema, Volume
from airflow_ml.spec.source import Categories, ColumnType, InRange, Nulls, Severity
from airflow_ml.stages._event_times import ZONES, span

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_EXAMPLES = 3


def check_columns(files: "Mapping[date, pa.Schema]", schema: Schema) -> list[Anomaly]:
    """Schema skew: columns of each day's files that are missing, not declared, or of another type.

    Args:
        files: Schema of each day's files, without ``ds``.
        schema: As declared.
    """
    import polars as pl

    api = _pandera()
    declared = api.DataFrameSchema(
        {column.name: api.Column(_dtype(column.type), nullable=True) for column in schema.columns}, strict=True
    )
    found: dict[Any, list[date]] = {}
    for day, arrow in files.items():
        found.setdefault(arrow, []).append(day)
    anomalies = []
    for arrow, days in found.items():
        for case in _failures(declared, pl.from_arrow(arrow.empty_table())):
            anomalies += [_column_anomaly(case, day, schema) for day in days]
    return anomalies


def undeclared(day: date, names: Sequence[str], severity: Severity) -> Iterator[Anomaly]:
    """Columns that a landing file had, and that ingest let pass without reading them."""
    for name in names:
        yield _anomaly(day, "new_column", name, severity, "a column that the schema does not declare", "no such column")


def check_values(rows: "pl.DataFrame", schema: Schema) -> list[Anomaly]:
    """Every value against its declared range, and empty fields of columns that may have none.

    Args:
        rows: Raw rows of all days, with ``ds``.
        schema: As declared.
    """
    api = _pandera()
    ranges = {
        column.name: [check for check in column.checks if isinstance(check, InRange) and _bounds(check)]
        for column in schema.columns
    }
    columns = {
        column.name: api.Column(
            _dtype(column.type), nullable=column.nullable, checks=[_in_range(check) for check in ranges[column.name]]
        )
        for column in schema.columns
    }
    days = rows["ds"]
    found: dict[tuple[date, str, int | None], list[str]] = {}
    for case in _failures(api.DataFrameSchema(columns), rows):
        found.setdefault((days[case["index"]], case["column"], case["check_number"]), []).append(case["failure_case"])
    anomalies = []
    for (day, name, number), values in found.items():
        count = len(values)
        if number is None:
            anomalies.append(_anomaly(day, "empty_field", name, "fail", f"{count} empty fields", "none", count))
            continue
        check = ranges[name][number]
        what = f"{count} values out of range ({_examples(values)})"
        anomalies.append(_anomaly(day, "range", name, check.severity, what, _bounds(check), count))
    return anomalies


def check_event_times(rows: "pl.DataFrame", name: str) -> Iterator[Anomaly]:
    """Events that are not of their partition's day by their own clock; by no clock at all is a failure.

    Args:
        rows: Raw rows of all days, with ``ds``.
        name: Column of the event's time.
    """
    import polars as pl

    strange = rows.select("ds", name).filter(pl.col(name).dt.date() != pl.col("ds")).sort("ds", name)
    for (day,), part in strange.partition_by("ds", as_dict=True, maintain_order=True).items():
        times = part[name].to_list()
        first, after = span(day, ZONES)
        severity: Severity = "warn" if first <= times[0] and times[-1] < after else "fail"
        found = f"{len(times)} events of another day ({_examples([f'{at:%Y-%m-%d %H:%M}' for at in times])})"
        expected = "times of the day itself; hours beside it are those of another time zone's day"
        yield _anomaly(day, "event_time", name, severity, found, expected, len(times))


@dataclass(frozen=True)
class _Rule:
    """A bound on one number of a day's profile.

    Attributes:
        kind: Which check.
        column: Column, or None.
        severity: Of its anomaly.
        bounds: Smallest and largest number that passes.
        found: Template of what is said; ``value``, ``rows`` and ``examples`` are filled in.
        expected: What is said of the bound.
    """

    kind: Kind
    column: str | None
    severity: Severity
    bounds: tuple[float, float]
    found: str
    expected: str

    @property
    def name(self) -> str:
        return f"{self.column or ''} {self.kind}"

    @property
    def examples(self) -> str:
        return f"{self.name} examples"


def check_profiles(
    rows: "pl.DataFrame", schema: Schema, trailing: Mapping[date, float], known: Statistics | None
) -> list[Anomaly]:
    """Null shares, unseen categories and volume of each day.

    Args:
        rows: Raw rows of all days, with ``ds``.
        schema: As declared.
        trailing: Mean rows of the days before, for days of which it is known.
        known: What the champion was trained on; None compares with declared categories only.
    """
    import polars as pl

    rules: list[_Rule] = []
    measures: list[pl.Expr] = []
    for column in schema.columns:
        for check in column.checks:
            values = pl.col(column.name)
            seen = seen_categories(column.name, check, known) if isinstance(check, Categories) else None
            if isinstance(check, Nulls):
                rule = _nulls_rule(column.name, check)
                measures.append(values.is_null().mean().alias(rule.name))
            elif isinstance(check, Categories) and seen is not None:
                rule = _categories_rule(column.name, check)
                strange = values.is_not_null() & ~values.is_in(seen)
                measures.append(strange.mean().alias(rule.name))
                measures.append(values.filter(strange).unique().sort().head(_EXAMPLES + 1).alias(rule.examples))
            else:
                continue
            rules.append(rule)
    profiles = rows.group_by("ds", maintain_order=True).agg(pl.len().alias("rows"), *measures)
    if schema.volume is not None and trailing:
        rule = _volume_rule(schema.volume)
        means = pl.DataFrame({"ds": list(trailing), "mean": list(trailing.values())})
        profiles = profiles.join(means, on="ds", how="left", maintain_order="left")
        profiles = profiles.with_columns((pl.col("rows") / pl.col("mean")).alias(rule.name))
        rules.append(rule)
    return list(_judged(profiles, rules))


def _judged(profiles: "pl.DataFrame", rules: Sequence[_Rule]) -> Iterator[Anomaly]:
    api = _pandera()
    by_name = {rule.name: rule for rule in rules}
    columns = {rule.name: api.Column(float, api.Check.in_range(*rule.bounds), nullable=True) for rule in rules}
    for case in _failures(api.DataFrameSchema(columns), profiles):
        rule, profile = by_name[case["column"]], profiles.row(case["index"], named=True)
        value, rows = profile[rule.name], profile["rows"]
        found = rule.found.format(value=value, rows=rows, examples=_examples(profile.get(rule.examples) or ()))
        counted = None if rule.kind == "volume" else round(value * rows)
        yield _anomaly(profile["ds"], rule.kind, rule.column, rule.severity, found, rule.expected, counted)


def seen_categories(column: str, check: Categories, known: Statistics | None) -> list[str] | None:
    """The categories that values may have: the declared ones, else those of training; None where nobody knows."""
    if check.allowed is not None:
        return list(check.allowed)
    statistics = known.column(column) if known else None
    return None if statistics is None or statistics.categories is None else list(statistics.categories)


def _nulls_rule(column: str, check: Nulls) -> _Rule:
    return _Rule(
        "nulls",
        column,
        check.severity,
        (0.0, check.max_share),
        "{value:.1%} of {rows} values are missing",
        f"at most {check.max_share:.1%}",
    )


def _categories_rule(column: str, check: Categories) -> _Rule:
    known = "seen in training" if check.allowed is None else "declared"
    return _Rule(
        "categories",
        column,
        check.severity,
        (0.0, check.max_unseen_share),
        f"{{value:.1%}} of {{rows}} values were not {known} ({{examples}})",
        f"at most {check.max_unseen_share:.1%}",
    )


def _volume_rule(volume: Volume) -> _Rule:
    return _Rule(
        "volume",
        None,
        volume.severity,
        (volume.min_ratio, volume.max_ratio),
        "{rows} rows, {value:.2f} times the mean of the days before",
        f"{volume.min_ratio:g} to {volume.max_ratio:g} times",
    )


def _column_anomaly(case: Mapping[str, Any], day: date, schema: Schema) -> Anomaly:
    if case["check"] == "column_in_dataframe":
        name = case["failure_case"]
        return _anomaly(day, "missing_column", name, "fail", "the column is missing", schema.column(name).type)
    if case["check"] == "column_in_schema":
        return next(undeclared(day, [case["failure_case"]], schema.new_columns))
    name = case["column"]
    return _anomaly(day, "type", name, "fail", f"stored as {case['failure_case']}", schema.column(name).type)


def _anomaly(
    day: date, kind: Kind, column: str | None, severity: Severity, found: str, expected: str, rows: int | None = None
) -> Anomaly:
    return Anomaly(
        day=day.isoformat(), kind=kind, column=column, severity=severity, found=found, expected=expected, rows=rows
    )


def _examples(values: Sequence[str]) -> str:
    return ", ".join(map(str, values[:_EXAMPLES])) + (", …" if len(values) > _EXAMPLES else "")


def _bounds(check: InRange) -> str:
    """The range for a person; empty where it has no bound at all."""
    bounds = (("at least", check.minimum), ("at most", check.maximum))
    return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _in_range(check: InRange) -> Any:
    api = _pandera()
    if check.maximum is None:
        return api.Check.ge(check.minimum)
    return api.Check.le(check.maximum) if check.minimum is None else api.Check.in_range(check.minimum, check.maximum)


def _dtype(type_: ColumnType) -> Any:
    import polars as pl

    types = {"string": pl.String, "int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}
    return types[type_] if type_ in types else pl.Datetime("us")


def _failures(schema: Any, frame: "pl.DataFrame | pl.Series") -> list[dict[str, Any]]:
    """Everything in a frame that a pandera schema refuses."""
    from pandera.errors import SchemaErrors

    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases: list[dict[str, Any]] = error.failure_cases.to_dicts()
        return cases
    return []


def _pandera() -> Any:
    # Without it pandera advises on its own import at every start.
    os.environ.setdefault("DISABLE_PANDERA_IMPORT_WARNING", "True")
    import pandera.polars

    return pandera.polars
