"""Versions in S3, which stock servers do not read: published whole, and fetched whole to a disk that they see.

    s3://bucket/prefix/<model>/<version>/…           the SavedModel's files
    s3://bucket/prefix/<model>/.versions/<version>   its manifest: every file's size and hash; written last

An object store renames nothing, so the manifest is what makes a version be there. A fetch checks every file against it,
under a name that servers do not look at, and renames the folder when it is complete and on disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_ml import s3
from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.s3 import told
from airflow_ml.serving.files import fsync_tree
from airflow_ml.serving.targets.shelves import other_content
from airflow_ml.storage import fsync

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """The files of a version.

    Attributes:
        files: Path in the folder → size in bytes and SHA-256.
    """

    files: Mapping[str, tuple[int, str]]

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"format": 1, "files": {name: list(is_) for name, is_ in sorted(self.files.items())}})

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """The inverse.

        Raises:
            ServingError: It says something else, or names a file outside of its folder.
        """
        try:
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in json.loads(text)["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServingError(f"the manifest is damaged: {type(error).__name__}", where, "publish again") from error
        outside = [name for name in files if name.startswith("/") or ".." in Path(name).parts]
        if outside or not files:
            raise ServingError(f"the manifest names {outside or 'no file'}", where, "publish the version again")
        return Manifest(files)

    @staticmethod
    def of(folder: Path) -> Manifest:
        """Of a folder on a disk."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return Manifest({path.relative_to(folder).as_posix(): (path.stat().st_size, _sha256(path)) for path in paths})


class S3Shelf:
    """Versions below ``s3://bucket/prefix``.

    Args:
        uri: The prefix.
        seen_as: Folder that servers see, which `airflow_ml.serving.targets.syncing` fills.
    """

    def __init__(self, uri: str, seen_as: str) -> None:
        self._uri = uri.rstrip("/")
        self._root = self._uri.removeprefix("s3://")
        self._seen_as = seen_as
        self._files = s3.filesystem()

    def publish(self, saved_model: Path, model: str, version: int) -> str:
        """Send the files, then the manifest."""
        target = f"{self._uri}/{model}/{version}"
        wanted = Manifest.of(saved_model)
        there = self.manifest(model, version)
        if there is not None:
            if there != wanted:
                raise other_content(model, version, target)
            return target
        for name in wanted.files:
            with told(f"{target}/{name}", ServingError):
                self._send(saved_model / name, f"{self._root}/{model}/{version}/{name}")
        with told(target, ServingError), self._files.open_output_stream(self._manifest(model, version)) as stream:
            stream.write(wanted.to_json().encode())
        return target

    def has(self, model: str, version: int) -> bool:
        """Whether its manifest is there."""
        return self.manifest(model, version) is not None

    def base_path(self, model: str) -> str:
        """The servers' folder."""
        return f"{self._seen_as}/{model}"

    def at(self, model: str) -> str:
        """URI."""
        return f"{self._uri}/{model}"

    def manifest(self, model: str, version: int) -> Manifest | None:
        """The files of a version; None if it is not published, or not yet."""
        path = self._manifest(model, version)
        with told(f"s3://{path}", ServingError):
            try:
                with self._files.open_input_stream(path) as stream:
                    text = stream.read().decode()
            except FileNotFoundError:
                return None
        return Manifest.from_json(text, f"s3://{path}")

    def fetch(self, model: str, version: int, folder: Path) -> bool:
        """Bring a version to ``<folder>/<model>/<version>``, which appears when it is complete.

        Returns:
            Whether it is there now; it is not if it was never published.

        Raises:
            ServingError: A file is not what the manifest says, or cannot be read.
        """
        target = folder / model / str(version)
        if target.is_dir():
            return True
        manifest = self.manifest(model, version)
        if manifest is None:
            return False
        staging = target.with_name(f".staging-{version}")
        shutil.rmtree(staging, ignore_errors=True)
        for name, (size, digest) in manifest.files.items():
            source, path = f"{self._root}/{model}/{version}/{name}", staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with told(f"s3://{source}", ServingError):
                self._bring(source, path)
            if (path.stat().st_size, _sha256(path)) != (size, digest):
                raise ServingError(
                    "the file is not what its manifest says", f"s3://{source}", "publish the version again"
                )
        fsync_tree(staging)
        staging.rename(target)
        fsync(target.parent)
        return True

    def _manifest(self, model: str, version: int) -> str:
        return f"{self._root}/{model}/.versions/{version}"

    def _send(self, path: Path, target: str) -> None:
        with path.open("rb") as file, self._files.open_output_stream(target) as stream:
            shutil.copyfileobj(file, stream, _CHUNK)

    def _bring(self, source: str, path: Path) -> None:
        with self._files.open_input_stream(source) as stream, path.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
