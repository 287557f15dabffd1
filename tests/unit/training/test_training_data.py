"""Splits: a rank reads its row groups and no other, memory is that of a window, and batches do not depend on ranks."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing, Vocabulary
from airflow_ml.training.data import RowGroup, assign, looked_up, read, row_groups, to_numpy
from airflow_ml.training.stream import Split, windows

WHOLE = 1_000_000
SMALL = 1300
"""Rows of a window: two row groups or three of the ten."""


@pytest.fixture
def preprocessing(splits: Path) -> Preprocessing:
    return Preprocessing.from_json((splits / "preprocessing.json").read_text())


def ranks(folder: Path, preprocessing: Preprocessing, size: int, window_rows: int = WHOLE) -> list[Split]:
    return [Split(folder, preprocessing, "label", rank, size, window_rows) for rank in range(size)]


def values(batches) -> list[np.ndarray]:
    return [np.column_stack([batch.categorical, batch.numeric, batch.labels]) for batch in batches]


def test_row_groups_are_shared_out_evenly_and_once(splits):
    groups = row_groups(splits / "train")
    assert sum(group.rows for group in groups) == 4200
    shares = assign(groups, 3)
    assert sorted(group.first for share in shares for group in share) == [group.first for group in groups]
    loads = [sum(group.rows for group in share) for share in shares]
    assert max(loads) - min(loads) <= 500


def test_one_huge_row_group_does_not_take_others_along():
    groups = [RowGroup(Path("a"), n, 0, rows) for n, rows in enumerate([10, 1000, 10, 10])]
    assert [[group.index for group in share] for share in assign(groups, 2)] == [[1], [0, 2, 3]]


def test_windows_hold_each_row_group_once_and_change_with_the_epoch(splits):
    groups = row_groups(splits / "train")
    (whole,) = windows(groups, most=4200, seed=1, epoch=1)
    assert whole.groups == tuple(groups)
    one, other = (windows(groups, most=SMALL, seed=1, epoch=epoch) for epoch in (1, 2))
    for found in (one, other):
        assert sorted(group.first for window in found for group in window.groups) == [group.first for group in groups]
        assert all(window.rows <= SMALL for window in found)
        assert [window.first for window in found[1:]] == [window.first + window.rows for window in found[:-1]]
    assert [window.groups for window in one] != [window.groups for window in other]
    # A row group that is larger than a window is one of its own.
    assert [window.rows for window in windows(groups, most=1, seed=1, epoch=1)] != []


def test_a_rank_reads_only_its_own_row_groups(splits, preprocessing, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(splits / "train", folder)
    own, others = assign(row_groups(folder), 2)
    # Whoever looks at a row group of rank 1 now finds rubbish.
    for group in others:
        metadata = pq.read_metadata(group.path).row_group(group.index)
        with group.path.open("r+b") as file:
            for column in range(metadata.num_columns):
                chunk = metadata.column(column)
                file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                file.write(b"\xff" * chunk.total_compressed_size)
    mine, broken = ranks(folder, preprocessing, 2)
    assert sum(len(batch) for batch in mine.shuffled(256, seed=1, epoch=1)) == sum(group.rows for group in own)
    assert sum(len(batch) for batch in mine.in_order(256)) == sum(group.rows for group in own)
    with pytest.raises(OSError, match=r".+"):
        next(broken.shuffled(256, seed=1, epoch=1))


@pytest.mark.parametrize("window_rows", [WHOLE, SMALL])
@pytest.mark.parametrize("batch_size", [256, 1000, 4200, 10_000])
def test_global_batches_are_the_same_for_any_number_of_ranks(splits, preprocessing, batch_size, window_rows):
    def batches(size: int, epoch: int) -> list[np.ndarray]:
        steps: list[list[np.ndarray]] = []
        for split in ranks(splits / "train", preprocessing, size, window_rows):
            parts = list(split.shuffled(batch_size, seed=7, epoch=epoch))
            assert len(parts) == split.steps(batch_size)
            steps.append(values(parts))
            assert sum(part.global_rows for part in parts) == 4200
        whole = [np.concatenate(parts) for parts in zip(*steps, strict=True)]
        return [part[np.lexsort(part.T)] for part in whole]

    alone = batches(1, epoch=1)
    for size in (2, 3, 5):
        for one, many in zip(alone, batches(size, epoch=1), strict=True):
            np.testing.assert_array_equal(one, many)
    if batch_size < 4200:
        assert not np.array_equal(alone[0], batches(1, epoch=2)[0])


def test_a_split_that_memory_holds_is_one_permutation_of_all_its_rows(splits, preprocessing):
    (split,) = ranks(splits / "train", preprocessing, 1)
    rows = read(split.groups, preprocessing, "label")
    order = np.random.default_rng([7, 2]).permutation(4200)
    found = np.concatenate([batch.numeric for batch in split.shuffled(256, seed=7, epoch=2)])
    np.testing.assert_array_equal(found, rows.numeric.numpy()[order])


@pytest.mark.parametrize("window_rows", [WHOLE, SMALL])
def test_an_epoch_goes_on_where_it_was(splits, preprocessing, window_rows):
    for split in ranks(splits / "train", preprocessing, 2, window_rows):
        whole = values(split.shuffled(256, seed=7, epoch=1))
        for step in (1, 5, 16, 17):
            rest = values(split.shuffled(256, seed=7, epoch=1, step=step))
            assert len(rest) == 17 - step
            for one, other in zip(whole[step:], rest, strict=True):
                np.testing.assert_array_equal(one, other)


def test_streamed_rows_in_order_are_those_of_a_split_in_memory(splits, preprocessing):
    for whole, streamed in zip(
        ranks(splits / "train", preprocessing, 2), ranks(splits / "train", preprocessing, 2, SMALL), strict=True
    ):
        pairs = zip(values(whole.in_order(300)), values(streamed.in_order(300)), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("window_rows", [WHOLE, SMALL])
def test_a_sample_is_the_same_for_any_number_of_ranks(splits, preprocessing, window_rows):
    def sample(size: int) -> np.ndarray:
        found = [split.sample(700, seed=3) for split in ranks(splits / "train", preprocessing, size, window_rows)]
        together = np.concatenate(found)
        return together[np.lexsort(together.T)]

    assert len(sample(1)) == 700
    np.testing.assert_array_equal(sample(1), sample(3))


@pytest.mark.parametrize("window_rows", [WHOLE, SMALL])
def test_more_ranks_than_row_groups_leaves_some_without_rows_but_not_without_steps(splits, preprocessing, window_rows):
    found = ranks(splits / "train", preprocessing, 16, window_rows)
    assert {len(list(split.shuffled(512, seed=1, epoch=1))) for split in found} == {9}
    rows = [list(split.shuffled(4200, seed=1, epoch=1)) for split in found]
    assert sum(len(batch) for (batch,) in rows) == 4200
    assert min(len(batch) for (batch,) in rows) == 0
    assert {tuple(batch.numeric.shape) for (batch,) in rows if not len(batch)} == {(0, 3)}


def test_a_null_label_or_a_missing_column_is_refused(splits, preprocessing, tmp_path):
    table = pq.read_table(splits / "train")
    pq.write_table(table.drop_columns(["wind"]), tmp_path / "a.parquet")

    def look(window_rows: int = WHOLE) -> None:
        (split,) = ranks(tmp_path, preprocessing, 1, window_rows)
        next(split.in_order(16))

    with pytest.raises(BadTrainingSet, match="columns missing: wind"):
        look()
    labels = pa.array([None] + [1] * (table.num_rows - 1), pa.int8())
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", labels), tmp_path / "a.parquet", row_group_size=1000)
    with pytest.raises(BadTrainingSet, match="label"):
        look()
    # In the thread that reads ahead, too.
    with pytest.raises(BadTrainingSet, match="label"):
        look(SMALL)


def test_a_split_without_rows_is_refused(preprocessing, tmp_path):
    with pytest.raises(BadTrainingSet, match="no rows"):
        ranks(tmp_path, preprocessing, 1)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pa.chunked_array([["b", None, "", "a"], ["zz", "b"]]), "string"),
        (pa.chunked_array([pa.array(["b", None, "a"], pa.large_string())]), "string"),
        (pa.chunked_array([pa.array([True, None, False])]), "string"),
        (pa.chunked_array([pa.array([3, 2, 3, 9, -1], pa.int32())]), "int64"),
        (pa.chunked_array([pa.array([3, None, 9], pa.int64())]), "int64"),
        (pa.chunked_array([pa.array([3.0, 2.0, None])]), "int64"),
    ],
)
def test_arrow_looks_categories_up_as_the_preprocessing_does(column, dtype):
    tokens = ("3", "-1", "2") if dtype == "int64" else ("a", "b", "True", "true")
    vocabulary = Vocabulary(name="x", tokens=tokens, dtype=dtype)
    expected = vocabulary.apply(to_numpy(column))
    assert expected.any()
    np.testing.assert_array_equal(looked_up(column, vocabulary), expected)


PEAK = """
import resource, sys
from pathlib import Path
from airflow_ml.lifecycle.preprocessing import Preprocessing, Scaling
from airflow_ml.training.stream import Split
wide = Preprocessing(numeric=tuple(Scaling(name=f"n{n}", fill=0, mean=0, scale=1) for n in range(20)))
split = Split(Path(sys.argv[1]), wide, "label", 0, 2, 40_000)
rows = sum(len(batch) for batch in split.shuffled(1024, 1, 1))
rows += sum(len(batch) for batch in split.in_order(8192))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_split(tmp_path):
    values = np.random.default_rng(0).standard_normal((64_000, 20), dtype=np.float32)
    columns = {f"n{n}": values[:, n] for n in range(20)} | {"label": np.zeros(64_000, np.int8)}
    for name, copies in (("once", 1), ("eightfold", 8)):
        (tmp_path / name).mkdir()
        for number in range(copies):
            pq.write_table(pa.table(columns), tmp_path / name / f"{number}.parquet", row_group_size=4000)

    def peak(name: str) -> tuple[int, int]:
        command = [sys.executable, "-c", PEAK, str(tmp_path / name)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
        return int(found[0]), int(found[1])

    (rows, once), (many_rows, eightfold) = peak("once"), peak("eightfold")
    assert many_rows == pytest.approx(8 * rows, rel=0.05)
    # All of it would be 43 MB; a rank's half of it 21 MB.
    assert eightfold - once < 12, (once, eightfold)
