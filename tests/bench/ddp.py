"""Training: a Horovod epoch against torch DDP, one rank against two, and what a step waits for data.

Horovod and DDP (gloo) run in the same two processes, in turn, in the same loop, over the same batches, with the same
network. Horovod is shut down while DDP trains, so that its background thread is nobody's burden but its own. One rank
and two have one computing thread each. A split is streamed when it is larger than a window: here each epoch reads,
decodes and shuffles all of it anew, in the background.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import horovod.torch as hvd
import torch
from torch import distributed, nn

from airflow_ml.training import loop, model_files
from airflow_ml.training.context import FitContext
from airflow_ml.training.exchange import Exchange, exchange_of, optimizer_of
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.launch import launch
from airflow_ml.training.loop import Position, epoch_of
from airflow_ml.training.network import TabularNetwork
from airflow_ml.training.params import Params, parse
from tests.bench.report import Report, Table, median
from tests.unit.training.conftest import write_splits

ROWS = 240_000
GROUP_ROWS = 8192
ROUNDS = 9
PARAMS = {"epochs": 4, "batch_size": 1024, "patience": 100}
WINDOW_ROWS = 32_768
HIDDEN = ((256, 128), (1024, 512))
"""Widths of the layers: those of the default, whose steps take a few milliseconds, and of a network of larger steps."""


class Ddp(Exchange):
    """Gradients averaged by torch's own reducer while the backward pass runs."""

    def __init__(self, network: nn.Module, params: Params) -> None:
        self.optimizer = optimizer_of(network, params)

    def scale(self, rows: int, global_rows: int) -> float:
        return distributed.get_world_size() / global_rows

    def step(self) -> None:
        self.optimizer.step()


class _Gloo:
    """What the loop asks of Horovod beside the exchange: the sum of an epoch's losses."""

    Sum = distributed.ReduceOp.SUM

    @staticmethod
    def allreduce(tensor: torch.Tensor, op: distributed.ReduceOp.RedOpType, name: str) -> torch.Tensor:
        distributed.all_reduce(tensor, op)
        return tensor


@contextmanager
def _only(name: str) -> Iterator[None]:
    """Without Horovod, where it is not what is measured."""
    if name == "Horovod":
        yield
        return
    hvd.shutdown()
    try:
        with mock.patch.object(loop, "hvd", _Gloo):
            yield
    finally:
        hvd.init()


def fit(context: FitContext) -> nn.Module:
    """Epochs of both, in turn; the seconds of each are what is reported."""
    params = parse(context.params, own_fit=True)
    distributed.init_process_group(
        "gloo", init_method=f"file://{context.params['store']}", rank=context.rank, world_size=context.size
    )
    networks: dict[str, nn.Module] = {}
    exchanges: dict[str, Exchange] = {}
    for name in ("Horovod", "torch DDP"):
        context.seed_everything(0)
        networks[name] = TabularNetwork(
            context.preprocessing.cardinalities, len(context.preprocessing.numeric), params.hidden, 16, 0.1
        )
    exchanges["Horovod"] = exchange_of(networks["Horovod"], params, context.grouped)
    exchanges["torch DDP"] = Ddp(networks["torch DDP"], params)
    plain = networks["Horovod"]
    networks["torch DDP"] = nn.parallel.DistributedDataParallel(networks["torch DDP"])
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(1, ROUNDS + 1):
        # In turn, and each of them first every other time.
        for name in list(networks)[:: 1 if number % 2 else -1]:
            with _only(name):
                # The first after a turn finds cold caches and new connections: it is not counted.
                for counted in (False, True):
                    distributed.barrier()
                    began = time.perf_counter()
                    epoch_of(context, networks[name], exchanges[name], params, number, Position(0, 0.0))
                    if counted:
                        seconds[name].append(time.perf_counter() - began)
    context.report(1, **{f"{name} {n}": s for name, each in seconds.items() for n, s in enumerate(each)})
    distributed.destroy_process_group()
    return plain


def run() -> Report:
    """All three, on synthetic rows of five columns."""
    folder = Path(tempfile.mkdtemp(prefix="airflow-ml-bench-"))
    try:
        write_splits(folder / "splits", ROWS, GROUP_ROWS)
        return _measured(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(folder: Path) -> Report:
    fought = {}
    exchanges: list[tuple[str, str, float, float]] = []
    for hidden in HIDDEN:
        name = "-".join(map(str, hidden))
        store = str(folder / f"store-{name}")
        found = _train(folder, f"ddp-{name}", 2, fit="tests.bench.ddp:fit", store=store, hidden=hidden)[0]
        fought[name] = found
        ours, theirs = (
            [value for key, value in found.items() if key.startswith(f"{exchange} ")]
            for exchange in ("Horovod", "torch DDP")
        )
        ratio = median([one / other for one, other in zip(ours, theirs, strict=True)])
        exchanges += [(name, "Horovod", median(ours), ratio), (name, "torch DDP, gloo", median(theirs), 1.0)]
    alone, both = (_train(folder, f"ranks-{workers}", workers)[1:] for workers in (1, 2))
    streamed = _train(folder, "streamed", 2, window_rows=WINDOW_ROWS)[1:]
    speed = {name: median([e["rows_per_s"] for e in each]) for name, each in (("one", alone), ("two", both))}
    waits = {
        name: median([e["data_wait_share"] for e in each]) for name, each in (("held", both), ("streamed", streamed))
    }
    tables = (
        Table(
            "An epoch of two ranks, seconds (goal: ≤ 1.05 of torch DDP)",
            ("layers", "exchange", "median epoch", "of torch DDP"),
            tuple(exchanges),
        ),
        Table(
            "Rows a second",
            ("ranks", "rows/s", "of one rank"),
            (("1", speed["one"], 1.0), ("2", speed["two"], speed["two"] / speed["one"])),
        ),
        Table(
            "Share of an epoch that waits for data (goal: ≤ 0.05)",
            ("split", "share", "rows/s"),
            (
                ("held in memory", waits["held"], speed["two"]),
                ("streamed", waits["streamed"], median([e["rows_per_s"] for e in streamed])),
            ),
        ),
    )
    notes = (
        "Horovod is shut down while DDP trains; its background thread runs while Horovod does",
        f"{ROWS * 7 // 10:,} rows of 5 columns in row groups of {GROUP_ROWS:,}, batches of {PARAMS['batch_size']:,}",
        f"medians of {ROUNDS} rounds, in which each of the two trains two epochs, the second of which counts",
        "the ratio is the median of those of the rounds; rows a second and waiting: of 3 epochs, after the first",
        f"streamed: windows of {WINDOW_ROWS:,} rows, decoded anew in each epoch; one thread a rank",
    )
    details = {"fought": fought, "one rank": alone, "two ranks": both, "streamed": streamed}
    return Report("ddp", tables, notes, details)


def _train(folder: Path, name: str, workers: int, fit: str | None = None, **params: Any) -> list[dict[str, Any]]:
    """The history of a training."""
    splits = folder / "splits"
    job = TrainingJob(
        fingerprint="f" * 64,
        train=str(splits / "train"),
        validation=str(splits / "validation"),
        preprocessing=str(splits / "preprocessing.json"),
        fit=fit,
        params={**PARAMS, **params},
        workers=workers,
        state=str(folder / name / "state"),
        out=str(folder / name / "model"),
    )
    # Gloo of torch looks up this machine's name, which need not be known.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    launch(job, folder / name / "work", lambda event: None)
    history = json.loads((Path(job.out) / model_files.HISTORY).read_text(encoding="utf-8"))["history"]
    return list(history)
