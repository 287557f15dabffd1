"""The strict parser: what is as declared comes out typed, everything else is refused with its row."""

import csv
import io
import math
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_ml.spec import Column, Files, Schema
from airflow_ml.stages._parsing import Refused, parse

COLUMNS = (
    Column(name="id", type="string"),
    Column(name="n", type="int", nullable=True),
    Column(name="x", type="float", nullable=True),
    Column(name="yes", type="bool", nullable=True),
    Column(name="at", type="timestamp"),
)
HEADER = "id,n,x,yes,at\n"
GOOD = "a,1,0.5,true,2013-01-01 05:15:00\n"


def source(encoding="utf-8", delimiter=",", new_columns="fail", columns=COLUMNS):
    schema = Schema(columns=columns, key="id", new_columns=new_columns)
    return Files(path="{ds}.csv", schema=schema, encoding=encoding, delimiter=delimiter)


def refusal(content, **changes):
    with pytest.raises(Refused) as caught:
        parse(content.encode() if isinstance(content, str) else content, source(**changes))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        (HEADER, "a header and no rows"),
        (HEADER + GOOD + GOOD.replace("a", "b", 1).rstrip("\n"), "row 3: the last row does not end with a newline"),
        (HEADER + GOOD + "b,1,0.5\n", "row 3: 3 fields instead of 5"),
        (HEADER + "b,1,0.5,true,2013-01-01 05:15:00,extra\n", "row 2: 6 fields instead of 5"),
        ("id,n,x,yes\na,1,0.5,true\n", "row 1: columns missing: at"),
        ("id,n,x,yes,at,gate\na,1,0.5,true,2013-01-01 05:15:00,7\n", "row 1: columns that are not declared: gate"),
        ("n,id,x,yes,at\n1,a,0.5,true,2013-01-01 05:15:00\n", "row 1: columns in another order, from 'n' on"),
        ("id,n,x,yes,at,n\na,1,0.5,true,2013-01-01 05:15:00,2\n", "row 1: columns named twice: n"),
        (HEADER + GOOD + GOOD, "row 3: key id='a' stands in row 2 already"),
        (HEADER + ",1,0.5,true,2013-01-01 05:15:00\n", "row 2: column 'id': an empty field"),
        (HEADER + "a,1,0.5,true,\n", "row 2: column 'at': an empty field"),
        (HEADER + GOOD + "b,1.0,0.5,true,2013-01-01 05:15:00\n", "row 3: column 'n': '1.0' cannot be read as int"),
        (HEADER + "b,9223372036854775808,,,2013-01-01 05:15:00\n", "row 2: column 'n': '9223372036854775808' cannot"),
        (HEADER + "b,1,nan,true,2013-01-01 05:15:00\n", "row 2: column 'x': 'nan' cannot be read as float"),
        (HEADER + "b,1,1e999,true,2013-01-01 05:15:00\n", "row 2: column 'x': '1e999' cannot be read as float"),
        (HEADER + "b,1,0.5,yes,2013-01-01 05:15:00\n", "row 2: column 'yes': 'yes' cannot be read as bool"),
        (HEADER + GOOD + "b,1,0.5,true,2013-02-30 05:15:00\n", "row 3: column 'at': '2013-02-30 05:15:00' cannot"),
        (HEADER + "b,1,0.5,true,2013-01-01T05:15:00Z\n", "row 2: column 'at': '2013-01-01T05:15:00Z' cannot"),
        ("\ufeff" + HEADER + GOOD, "row 1: a byte order mark precedes the header"),
    ],
)
def test_what_is_not_as_declared_is_refused_with_its_row(content, expected):
    problems = refusal(content)
    assert len(problems) == 1
    assert problems[0].startswith(expected) or expected in problems[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER + GOOD + "\n", ["row 3: column 'id': an empty field", "row 3: column 'at': an empty field"]),
        ("a,1\n", ["row 1: columns missing: id, n, x, yes, at", "row 1: columns that are not declared: a, 1"]),
    ],
    ids=["a blank line", "no header"],
)
def test_lines_that_are_no_rows_are_refused(content, expected):
    assert refusal(content) == expected


def test_a_bad_byte_is_refused_with_its_offset_and_row():
    content = (HEADER + GOOD).encode() + b"b\xff,1,0.5,true,2013-01-01 05:15:00\n"
    offset = len(HEADER) + len(GOOD) + 1
    assert refusal(content) == [f"row 3: byte 0xff at offset {offset} is not utf-8"]


def test_all_problems_of_a_file_are_told_in_order_of_rows():
    problems = refusal(HEADER + "a,1,zero,true,2013-01-01 05:15:00\n" + "a,one,0.5,true,2013-01-01 05:15:00\n" * 2)
    assert [problem.split(":")[0] for problem in problems] == ["row 2", "row 3", "row 3"]
    assert "(and 1 more)" in problems[1]


def test_new_columns_may_pass_and_are_not_read():
    content = "id,gate,n,x,yes,at\na,7,1,0.5,true,2013-01-01 05:15:00\n"
    parsed = parse(content.encode(), source(new_columns="warn"))
    assert parsed.new_columns == ("gate",)
    assert parsed.table.column_names == [column.name for column in COLUMNS]


def test_a_declared_encoding_and_delimiter_are_used():
    parsed = parse("id;n;x;yes;at\nZürich;+1;.5;;2013-01-01 05:15\n".encode("latin-1"), source("latin-1", ";"))
    assert parsed.table.to_pylist() == [
        {"id": "Zürich", "n": 1, "x": 0.5, "yes": None, "at": datetime.fromisoformat("2013-01-01T05:15")}
    ]


numbers = st.integers(-(2**63), 2**63 - 1) | st.none()
floats = st.floats(allow_nan=False, allow_infinity=False) | st.none()
moments = st.datetimes(datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2200-01-01"))
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(lambda t: t != "\ufeff")
rows = st.lists(
    st.tuples(texts, numbers, floats, st.booleans() | st.none(), moments), min_size=1, unique_by=lambda r: r[0]
)


def written(values) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow([column.name for column in COLUMNS])
    for id_, n, x, yes, at in values:
        flag = "" if yes is None else str(yes).lower()
        writer.writerow([id_, "" if n is None else n, "" if x is None else repr(x), flag, at.isoformat(" ")])
    return text.getvalue().encode()


@settings(max_examples=150, deadline=None)
@given(rows)
def test_what_csv_writes_is_read_back_exactly(values):
    table = parse(written(values), source()).table
    read = [tuple(row.values()) for row in table.to_pylist()]
    assert read == values
    assert all(
        math.copysign(1, a[2]) == math.copysign(1, b[2]) for a, b in zip(read, values, strict=True) if b[2] is not None
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_bad_value_is_found_in_its_row_and_column(data):
    lines = [
        [f"k{number}", "1", "0.5", "true", "2013-01-01 05:15:00"] for number in range(data.draw(st.integers(1, 30)))
    ]
    row = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(1, 4))
    lines[row][column] = data.draw(st.sampled_from(["x", " 1", "1_0", "0x1f", "--1", "1,5".replace(",", "."), "١"]))
    text = HEADER + "".join(",".join(line) + "\n" for line in lines)
    name, value = COLUMNS[column].name, lines[row][column]
    if (name, value) == ("x", "1.5"):
        assert parse(text.encode(), source()).table["x"][row].as_py() == 1.5
        return
    type_ = COLUMNS[column].type
    assert refusal(text) == [f"row {row + 2}: column {name!r}: {value!r} cannot be read as {type_}"]
