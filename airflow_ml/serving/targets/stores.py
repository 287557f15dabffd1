"""Where a config is kept, with the lease of its writer: read, and compare-and-set.

A file is one kind: servers that see the same disk poll it. `configmaps` has another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.targets.leases import Lease
from airflow_ml.storage import locked, storage_error, write_atomically

CONFIG_NAME = "models.config"


class Moved(Exception):
    """A compare-and-set failed: it was changed after it was read."""


@dataclass(frozen=True)
class Kept:
    """What a store held at one moment.

    Attributes:
        text: The config; None where there is none yet.
        lease: Of its writer.
        mark: By which the store knows whether it changed.
    """

    text: str | None
    lease: Lease | None
    mark: Any = None


class ConfigStore(Protocol):
    """A config that several may want to change."""

    @property
    def where(self) -> str:
        """For messages."""

    def read(self) -> Kept:
        """What it holds now.

        Raises:
            AirflowMLError: It cannot be read.
        """

    def replace(self, before: Kept, text: str | None, lease: Lease | None) -> Kept:
        """Put a config and a lease in the place of what was read, both or neither.

        Raises:
            Moved: It holds something else meanwhile.
            AirflowMLError: It cannot be written.
        """


class FileStore:
    """``<folder>/models.config``, and the lease in a hidden file beside it.

    Each appears by one rename, so that a server never reads half of it. A lock of the kernel's makes compare-and-set
    out of two files; should the process be killed between them, the lease is there and the config is the old one.

    Args:
        folder: Created by the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / CONFIG_NAME
        self._lease = self.path.with_name(f".{CONFIG_NAME}.lease")
        self._lock = self.path.with_name(f".{CONFIG_NAME}.lock")

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path)

    def read(self) -> Kept:
        """What is there; readers need no lock."""
        with self._told():
            text, lease = _text(self.path), _text(self._lease)
        return Kept(text, Lease.from_json(lease, str(self._lease)) if lease else None)

    def replace(self, before: Kept, text: str | None, lease: Lease | None) -> Kept:
        """Write what changed."""
        after = Kept(text, lease)
        with locked(self._lock), self._told():
            if self.read() != before:
                raise Moved
            if lease is not None and lease != before.lease:
                write_atomically(self._lease, lease.to_json())
            if text is not None and text != before.text:
                write_atomically(self.path, text)
            if lease is None:
                self._lease.unlink(missing_ok=True)
        return after

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise ServingError("not a text", self.where, "repair it by hand; nothing was changed") from error
        except OSError as error:
            raise storage_error(error, Path(error.filename or self.path)) from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
