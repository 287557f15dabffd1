"""Checkpoints: one file an epoch, seen whole or not at all, also after kill -9 or a power cut."""

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

import torch

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.storage import storage_error

FORMAT = 1
_KEPT = 2


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: Created by the first `save`.
        fingerprint: Identity of the training: what another one left in the folder is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def save(self, epoch: int, state: dict[str, Any], step: int = 0) -> None:
        """Write the checkpoint of a finished epoch; the one before is kept, older ones are removed.

        Args:
            epoch: From 1; 0 for one inside the first.
            state: Tensors, numbers, texts, lists and dicts: what ``torch.load(weights_only=True)`` accepts.
            step: Steps of the next epoch that are done.
        """
        path = self.folder / (f"epoch-{epoch:05d}-step-{step:07d}.pt" if step else f"epoch-{epoch:05d}.pt")
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({"format": FORMAT, "fingerprint": self.fingerprint, "epoch": epoch, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise storage_error(error, path) from error
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)
        for torn in self.folder.glob(".epoch-*"):
            torn.unlink(missing_ok=True)

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the newest checkpoint, or None.

        Raises:
            TrainingFailed: It belongs to another training, or was written by a newer package.
        """
        paths = self._paths()
        if not paths:
            return None
        found = torch.load(paths[-1], map_location="cpu", weights_only=True)
        if found["format"] != FORMAT or found["fingerprint"] != self.fingerprint:
            raise TrainingFailed(
                f"the checkpoint is of another training ({found['fingerprint'][:12]}) or of another format",
                where=str(paths[-1]),
                remedy="remove the folder to train from the beginning",
            )
        return int(found["epoch"]), found["state"]

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"), key=_place)


def _place(path: Path) -> tuple[int, int]:
    """Finished epochs and further steps of a checkpoint, by its name."""
    _, epoch, *step = path.stem.split("-")
    return int(epoch), int(step[1]) if step else 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
