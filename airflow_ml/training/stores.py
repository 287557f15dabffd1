"""Where checkpoints lie: a folder or a bucket. A file is there whole or not at all, whoever is killed meanwhile.

A folder's file is renamed when it is on the disk. S3 shows an object when its upload is complete: of a writer that was
killed nothing is seen. What it had sent of a large one stays with S3, unseen, until a rule of the bucket removes it.
"""

import contextlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from airflow_ml import s3
from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.s3 import told
from airflow_ml.storage import fsync, storage_error, written_whole


class Store(Protocol):
    """Whole files by name, of one writer at a time."""

    def where(self, name: str) -> str:
        """Path or URI of a file."""

    def names(self) -> list[str]:
        """Files that are there, in no order."""

    def writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to be written; it is there, whole, when the block has ended well."""

    def reading(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file that is there."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""


def open_store(place: str) -> Store:
    """The store of a folder, or of ``s3://bucket/prefix``."""
    return BucketStore(place) if place.startswith(s3.SCHEME) else FolderStore(Path(place))


class FolderStore:
    """Files of a folder, which is created by the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str) -> str:
        """Path."""
        return str(self._folder / name)

    def names(self) -> list[str]:
        """All but what is being written."""
        return [path.name for path in self._folder.glob("[!.]*")]

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file under another name until it is on the disk."""
        path = self._folder / name
        with written_whole(path) as file:
            yield file
        try:
            fsync(self._folder)
        except OSError as error:
            raise storage_error(error, path) from error
        for torn in self._folder.glob(f".*{path.suffix}.*"):
            torn.unlink(missing_ok=True)

    def reading(self, name: str) -> IO[bytes]:
        """The file."""
        return (self._folder / name).open("rb")

    def remove(self, name: str) -> None:
        """Unlink it."""
        (self._folder / name).unlink(missing_ok=True)


class BucketStore:
    """Objects of a prefix. Each is held in memory while it is sent, and while it is read."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._root = self._uri.removeprefix(s3.SCHEME)
        self._files = s3.filesystem()

    def where(self, name: str) -> str:
        """URI."""
        return f"{self._uri}/{name}"

    def names(self) -> list[str]:
        """Objects right below the prefix.

        Raises:
            BaseError: There is no such bucket, which a listing of none would hide, or S3 is away.
        """
        from pyarrow.fs import FileSelector, FileType

        with told(self._uri, BaseError):
            found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
            bucket = self._root.partition("/")[0]
            if not found and self._files.get_file_info(bucket).type is FileType.NotFound:
                raise FileNotFoundError(f"there is no bucket {bucket!r}")
        return [each.base_name for each in found if each.type is FileType.File]

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Memory, which is sent at the end: an upload that is closed in the middle would be taken for a whole one."""
        whole = io.BytesIO()
        yield whole
        with told(self.where(name), BaseError), self._files.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(whole.getbuffer())

    def reading(self, name: str) -> IO[bytes]:
        """Its content."""
        with told(self.where(name), BaseError), self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return io.BytesIO(stream.read())

    def remove(self, name: str) -> None:
        """Delete it."""
        with told(self.where(name), BaseError), contextlib.suppress(FileNotFoundError):
            self._files.delete_file(f"{self._root}/{name}")
