"""What a person sees of a training, and what crosses the pipe."""

import json
import logging
import os

import pytest

from airflow_ml.training.events import EventWriter
from airflow_ml.training.progress import Progress

EVENTS = (
    {"event": "started", "rank": 0, "workers": 2, "threads": 1, "rendezvous_s": 0.1234}
    | {"train_rows": 134342, "validation_rows": 12822},
    {"event": "resumed", "rank": 0, "epoch": 1},
    {"event": "progress", "rank": 0, "epoch": 2, "epochs": 4, "step": 40, "steps": 132}
    | {"loss": 0.48, "rows_per_s": 45000, "eta_s": 7},
    {"event": "epoch", "rank": 0, "epoch": 2, "train_loss": 0.49, "validation_loss": 0.51, "validation_roc_auc": None}
    | {"rows_per_s": 45123.4, "best": True},
    {"event": "epoch", "rank": 0, "epoch": 3, "quality": 0.7},
    {"event": "failed", "rank": 1, "error": "RuntimeError", "what": "RuntimeError: melted", "remedy": ""},
    {"event": "finished", "rank": 0, "best_epoch": 2, "validation_loss": 0.51},
)


def test_log_lines_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture):
    progress = Progress(4, terminal=False)
    with caplog.at_level(logging.INFO, logger="airflow_ml.training"):
        for event in EVENTS:
            progress(event)
        progress.close()
    assert [record.message for record in caplog.records] == [
        "2 ranks of 1 threads met in 0.12 s: 134,342 rows to train on, 12,822 to validate on",
        "resumed after epoch 1 of 4",
        "epoch 2/4, step 40/132: loss 0.4800, 45,000 rows/s, 7 s to go",
        "epoch 2/4: loss 0.4900, val loss 0.5100, val auc n/a, 45,123 rows/s (best)",
        "epoch 3/4: quality 0.7000",
        "rank 1 failed: RuntimeError: melted",
        "finished: best epoch 2, val loss 0.5100",
    ]


def test_a_bar_in_a_terminal(capsys: pytest.CaptureFixture[str]):
    progress = Progress(4, terminal=True)
    for event in EVENTS:
        progress(event)
    progress.close()
    shown = capsys.readouterr().err
    assert "val loss 0.5100, auc n/a" in shown
    assert "resumed after epoch 1" in shown
    assert "/4 [" in shown


def test_events_are_lines_that_cannot_mix_and_hold_no_nan():
    reading, writing = os.pipe()
    writer = EventWriter(writing, rank=3)
    writer.send("epoch", loss=float("nan"), auc=0.5)
    writer.send("failed", what="é" * 100_000 + "the end")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines(keepends=True)
    assert json.loads(lines[0]) == {"event": "epoch", "rank": 3, "loss": None, "auc": 0.5}
    assert max(len(line) for line in lines) <= 4096
    assert json.loads(lines[1])["what"].endswith("the end")
