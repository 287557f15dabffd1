"""The data that the benches share: a year of flights, ingested and made into features once, in ``build/bench/base``."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow_ml.examples.flights.model import flights
from airflow_ml.examples.flights.world import YEAR, World
from airflow_ml.lake import LakeTable
from airflow_ml.lifecycle.requests import JobRequest, JobResult
from airflow_ml.lifecycle.windows import Window
from airflow_ml.spec import Model, Platform
from airflow_ml.stages.runner import execute
from tests.bench.report import BUILD

TABLES = ("raw", "outcomes", "features")
_SCHEMA = flights.source.schema_
UNCHECKED = flights.model_copy(
    update={
        "source": flights.source.model_copy(
            update={
                "schema_": _SCHEMA.model_copy(
                    update={
                        "columns": tuple(column.model_copy(update={"checks": ()}) for column in _SCHEMA.columns),
                        "volume": None,
                    }
                )
            }
        )
    }
)
"""The flights without checks of values: the last day of the year has no weather, and its validation refuses it. Models
are compared on every day."""

NIGHT = Window.of("2013-08-01")


def run_stage(
    stage: str,
    base: Path,
    window: Window,
    model: Model = flights,
    inputs: Mapping[str, str] | None = None,
    **params: Any,
) -> JobResult:
    """Run a stage in this process; returns its result."""
    platform = Platform(base=str(base))
    return execute(
        JobRequest(stage=stage, model=model, platform=platform, window=window, params=params, inputs=dict(inputs or {}))
    )


def run_chain(stages: tuple[str, ...], base: Path, window: Window, model: Model = flights) -> tuple[JobResult, ...]:
    """Run stages of one window after each other, each told where the results before it are, as tasks of a DAG are.

    A stage that has to look its upstream results up identifies all of theirs first, again and again.
    """
    found: dict[str, JobResult] = {}
    for stage in stages:
        inputs = {name: result.uri for name, result in found.items()}
        found[stage] = run_stage(stage, base, window, model, inputs)
    return tuple(found.values())


def prepared() -> Path:
    """The base with the tables of the whole year; a second call finds them by their fingerprints."""
    base = BUILD.resolve() / "base"
    began = time.perf_counter()
    if not (base / "landing").is_dir():
        print(f"  delivering the landing files of {YEAR}", flush=True)
        world = World(base / "landing")
        world.deliver(YEAR)
        world.deliver_outcomes(YEAR)
    for stage in ("ingest", "ingest_outcomes", "validate", "features"):
        result = run_stage(stage, base, YEAR, model=UNCHECKED)
        if not result.reused:
            print(f"  {stage} of {YEAR}: {result.rows:,} rows in {result.wall_s:.0f} s", flush=True)
    print(f"  data ready after {time.perf_counter() - began:.0f} s: {base}", flush=True)
    return base


@contextmanager
def fresh_base(tables: tuple[str, ...] = TABLES) -> Iterator[Path]:
    """A base without results whose tables are those of the prepared one; removed on the way out.

    Stages that write other tables, or none, leave the prepared ones as they are.
    """
    source = prepared() if tables else None
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="base-", dir=BUILD.resolve()) as temporary:
        lake = Path(temporary) / "lake" / flights.name
        lake.mkdir(parents=True)
        for name in tables:
            assert source is not None
            (lake / name).symlink_to(source / "lake" / flights.name / name)
        yield Path(temporary)


def features_of(base: Path, window: Window, columns: tuple[str, ...]) -> Any:
    """Rows of the feature table as a pyarrow table."""
    return LakeTable(base / "lake" / flights.name / "features").read(window, columns=list(columns))


def export_untrained(columns: Mapping[str, Any], destination: Path) -> Path:
    """A SavedModel of the built-in network with the flights' inputs, fitted to columns but not trained.

    Weights do not change what a forward pass costs.

    Args:
        columns: Name → array, of all features.
        destination: The folder to make.
    """
    from airflow_ml.serving.engines import tensorflow

    tensorflow()  # before torch
    import numpy as np
    import torch

    from airflow_ml.lifecycle.preprocessing import fit
    from airflow_ml.serving.export import export_saved_model
    from airflow_ml.training.network import TabularNetwork
    from airflow_ml.training.params import parse

    features = flights.features
    preprocessing = fit(columns, features.categorical, features.numeric, flights.training.min_count)
    params = parse(flights.training.params, own_fit=False)
    _, numbers = preprocessing.apply(columns)
    edges = torch.from_numpy(np.quantile(numbers, np.linspace(0, 1, params.bins + 1), axis=0).T.astype(np.float32))
    torch.manual_seed(1)
    network = TabularNetwork(
        preprocessing.cardinalities, numbers.shape[1], params.hidden, params.embedding, params.dropout, edges
    )
    export_saved_model(network.eval(), preprocessing, destination)
    return destination
