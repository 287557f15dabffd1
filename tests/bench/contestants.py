"""The contestants of `tests.bench.quality`: the network of the stages, and LightGBM on the same columns and split."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from airflow_ml.examples.flights.model import flights
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.preprocessing import Preprocessing
from airflow_ml.lifecycle.requests import FileOutput, JobResult
from airflow_ml.lifecycle.windows import Window
from tests.bench.base import features_of, run_chain

LIGHTGBM: dict[str, Any] = {
    "objective": "binary",
    "metric": "auc",
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "num_threads": 1,  # two that share a busy core wait for each other
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 100, "feature_fraction": 0.4, "lambda_l2": 1.0},
    {"num_leaves": 15, "learning_rate": 0.03, "min_child_samples": 300, "feature_fraction": 0.5, "lambda_l2": 10.0}
    | {"cat_smooth": 100},
    {"num_leaves": 31, "learning_rate": 0.05, "min_child_samples": 500, "feature_fraction": 0.4, "lambda_l2": 20.0}
    | {"cat_smooth": 100, "cat_l2": 50, "min_data_per_group": 500},
)
"""From usual to careful; a month's LightGBM is the one with the best validation AUC."""

ROUNDS, PATIENCE = 1000, 60

Array = np.ndarray[Any, Any]
Rows = dict[str, Array]


@dataclass(frozen=True)
class Trained:
    """What was learnt for one month."""

    window: Window
    training_set: JobResult
    train: JobResult
    evaluate: JobResult

    @property
    def folder(self) -> Path:
        """The network's folder."""
        return _path(self.train, "model")


def month_of(month: int) -> Window:
    """The days of a month of 2013."""
    return Window.of(date(2013, month, 1), date(2013, month, monthrange(2013, month)[1]))


def training_window(first: date) -> Window:
    """The days to learn from for predictions from ``first`` on: labels of ``first - lag`` are the newest known."""
    newest = first - timedelta(days=flights.label.lag)
    wanted = Window.ending(newest, flights.training.window)
    return Window.of(max(wanted.start, flights.start), newest)


def train_network(base: Path, window: Window) -> Trained:
    """The stages from tables to an evaluated network."""
    return Trained(window, *run_chain(("training_set", "train", "evaluate"), base, window))


def labelled(base: Path, days: Window) -> tuple[Rows, Array]:
    """Columns [n] and labels int8 [n] of the flights of these days that arrived."""
    entity = flights.features.entity
    rows = features_of(base, days, (entity, "ds", *flights.features.columns))
    outcomes = LakeTable(base / "lake" / flights.name / "outcomes").read(days, columns=["ds", entity, "label"])
    joined = rows.join(outcomes, keys=["ds", entity], join_type="inner")
    known = joined.filter(joined["label"].is_valid())
    return {name: known[name].to_numpy() for name in flights.features.columns}, known["label"].to_numpy().astype(
        np.int8
    )


def network_scores(trained: Trained, rows: Rows) -> Array:
    """Probabilities of the network."""
    from airflow_ml.training import model_files

    preprocessing = Preprocessing.from_json((trained.folder / model_files.PREPROCESSING).read_text())
    return model_files.probabilities(model_files.load(trained.folder), preprocessing, rows)


def lightgbm_scores(trained: Trained, rows: Rows) -> Array:
    """Probabilities of the best LightGBM by validation AUC, trained on the network's own split.

    Categories are numbered by the network's vocabularies and declared as such; numbers keep their missing values, which
    trees treat by themselves.
    """
    import lightgbm
    import pyarrow.parquet as pq

    preprocessing = Preprocessing.from_json(_path(trained.training_set, "preprocessing").read_text())
    categorical = list(range(len(flights.features.categorical)))

    def matrix(columns: Rows) -> Array:
        codes = [vocabulary.apply(columns[vocabulary.name]) for vocabulary in preprocessing.categorical]
        numbers = [columns[scaling.name] for scaling in preprocessing.numeric]
        return np.column_stack([*codes, *numbers]).astype(np.float64)

    def split(name: str) -> Any:
        table = pq.read_table(_path(trained.training_set, name), columns=[*flights.features.columns, "label"])
        columns = {column: table[column].to_numpy() for column in flights.features.columns}
        return lightgbm.Dataset(matrix(columns), table["label"].to_numpy(), categorical_feature=categorical)

    found = []
    for setting in SETTINGS:
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(
            LIGHTGBM | setting, split("train"), ROUNDS, valid_sets=[split("validation")], callbacks=[stop]
        )
        found.append((booster.best_score["valid_0"]["auc"], booster))
    _, best = max(found, key=lambda pair: pair[0])
    return np.asarray(best.predict(matrix(rows), num_iteration=best.best_iteration))


def auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def _path(result: JobResult, name: str) -> Path:
    output = result.outputs[name]
    assert isinstance(output, FileOutput)
    return Path(output.uri)
