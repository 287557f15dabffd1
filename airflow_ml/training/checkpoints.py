"""Checkpoints: one file an epoch, seen whole or not at all, also after kill -9 or a power cut."""

from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import torch

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.training.stores import Store, open_store

FORMAT = 1
_KEPT = 2
_SUFFIX = ".pt"


class Checkpoints:
    """The checkpoints of one training.

    Args:
        place: Folder, created by the first `save`, or ``s3://bucket/prefix``.
        fingerprint: Identity of the training: what another one left in the place is refused.
    """

    def __init__(self, place: str, fingerprint: str) -> None:
        self.place = place
        self.fingerprint = fingerprint

    @cached_property
    def _store(self) -> Store:
        # One rank of many needs it.
        return open_store(self.place)

    def save(self, epoch: int, state: dict[str, Any], step: int = 0) -> None:
        """Write the checkpoint of a finished epoch; the one before is kept, older ones are removed.

        Args:
            epoch: From 1; 0 for one inside the first.
            state: Tensors, numbers, texts, lists and dicts: what ``torch.load(weights_only=True)`` accepts.
            step: Steps of the next epoch that are done.

        Raises:
            BaseError: The disk is full, the bucket away …; what was there before is there.
        """
        name = f"epoch-{epoch:05d}-step-{step:07d}{_SUFFIX}" if step else f"epoch-{epoch:05d}{_SUFFIX}"
        with self._store.writing(name) as file:
            torch.save({"format": FORMAT, "fingerprint": self.fingerprint, "epoch": epoch, "state": state}, file)
        for old in self._names()[:-_KEPT]:
            self._store.remove(old)

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the newest checkpoint, or None.

        Raises:
            TrainingFailed: It belongs to another training, or was written by a newer package.
            BaseError: The bucket is away.
        """
        names = self._names()
        if not names:
            return None
        with self._store.reading(names[-1]) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
        if found["format"] != FORMAT or found["fingerprint"] != self.fingerprint:
            raise TrainingFailed(
                f"the checkpoint is of another training ({found['fingerprint'][:12]}) or of another format",
                where=self._store.where(names[-1]),
                remedy=f"remove {self.place} to train from the beginning",
            )
        return int(found["epoch"]), found["state"]

    def _names(self) -> list[str]:
        found = (name for name in self._store.names() if name.startswith("epoch-") and name.endswith(_SUFFIX))
        return sorted(found, key=_position)


def _position(name: str) -> tuple[int, int]:
    """Finished epochs and further steps of a checkpoint, by its name."""
    _, epoch, *step = PurePosixPath(name).stem.split("-")
    return int(epoch), int(step[1]) if step else 0
