"""Folders as values: their hash, and that they are on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from airflow_ml.storage import fsync


def tree_sha256(folder: Path) -> str:
    """A hash of all files of a folder: names relative to it, and contents. Times and permissions do not count."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix().encode()
        content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(len(name).to_bytes(8, "big") + name + content)
    return digest.hexdigest()


def fsync_tree(folder: Path) -> None:
    """Write a folder through to the disk, so that a rename after it cannot show empty files when the machine fails."""
    for path in [folder, *folder.rglob("*")]:
        fsync(path)
