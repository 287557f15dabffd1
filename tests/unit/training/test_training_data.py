"""Shards: a rank reads its row groups and no other, and global batches do not depend on the number of ranks."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_ml.lifecycle.errors import BadTrainingSet
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.training.data import RowGroup, Shard, assign, row_groups


@pytest.fixture
def preprocessing(splits: Path) -> Preprocessing:
    return Preprocessing.from_json((splits / "preprocessing.json").read_text())


def shards(splits: Path, preprocessing: Preprocessing, size: int) -> list[Shard]:
    return [Shard.load(splits / "train", preprocessing, "label", rank, size) for rank in range(size)]


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
    shard = Shard.load(folder, preprocessing, "label", 0, 2)
    assert len(shard) == sum(group.rows for group in own)
    assert list(shard.groups) == own
    with pytest.raises(OSError, match=r".+"):
        Shard.load(folder, preprocessing, "label", 1, 2)


@pytest.mark.parametrize("batch_size", [256, 1000, 4200, 10_000])
def test_global_batches_are_the_same_for_any_number_of_ranks(splits, preprocessing, batch_size):
    def batches(size: int, epoch: int) -> list[np.ndarray]:
        steps: list[list[np.ndarray]] = []
        for shard in shards(splits, preprocessing, size):
            parts = list(shard.shuffled(batch_size, seed=7, epoch=epoch))
            assert len(parts) == shard.steps(batch_size)
            steps.append([np.column_stack([p.categorical, p.numeric, p.labels]) for p in parts])
            sizes = [part.global_rows for part in parts]
            assert sum(sizes) == 4200
        whole = [np.concatenate(parts) for parts in zip(*steps, strict=True)]
        return [part[np.lexsort(part.T)] for part in whole]

    alone = batches(1, epoch=1)
    for size in (2, 3, 5):
        for one, many in zip(alone, batches(size, epoch=1), strict=True):
            np.testing.assert_array_equal(one, many)
    if batch_size < 4200:
        assert not np.array_equal(alone[0], batches(1, epoch=2)[0])


def test_more_ranks_than_row_groups_leaves_some_without_rows_but_not_without_steps(splits, preprocessing):
    found = shards(splits, preprocessing, 16)
    assert min(len(shard) for shard in found) == 0
    assert {len(list(shard.shuffled(512, seed=1, epoch=1))) for shard in found} == {9}
    empty = next(shard for shard in found if len(shard) == 0)
    assert [tuple(batch.numeric.shape) for batch in empty.shuffled(4200, seed=1, epoch=1)] == [(0, 3)]


def test_a_null_label_or_a_missing_column_is_refused(splits, preprocessing, tmp_path):
    table = pq.read_table(splits / "train")
    pq.write_table(table.drop_columns(["wind"]), tmp_path / "a.parquet")
    with pytest.raises(BadTrainingSet, match="columns missing: wind"):
        Shard.load(tmp_path, preprocessing, "label", 0, 1)
    labels = pa.array([None] + [1] * (table.num_rows - 1), pa.int8())
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", labels), tmp_path / "a.parquet")
    with pytest.raises(BadTrainingSet, match="label"):
        Shard.load(tmp_path, preprocessing, "label", 0, 1)


def test_a_split_without_rows_is_refused(splits, preprocessing, tmp_path):
    with pytest.raises(BadTrainingSet, match="no rows"):
        Shard.load(tmp_path, preprocessing, "label", 0, 1)
