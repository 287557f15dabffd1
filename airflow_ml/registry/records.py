"""The files of a release record as JSON with a format: read, written, and told when they cannot be trusted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from airflow_ml.lifecycle.errors import BaseError
from airflow_ml.storage import write_atomically

FORMAT = 1

# What nothing else can tell again: what people and gates decided.
_RESTORE = "restore the file from a backup"

Record = TypeVar("Record")


def read(
    path: Path, parse: Callable[[dict[str, Any]], Record], what: str = "record", remedy: str = _RESTORE
) -> Record | None:
    """What a file says; None if it is not there.

    Args:
        path: Of the file.
        parse: Makes the record of the file's object.
        what: For the message.
        remedy: Where the file is damaged.

    Raises:
        BaseError: A newer package wrote the file, or it is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise BaseError(f"format {data['format']}; this package knows {FORMAT}", str(path), "upgrade airflow-ml")
        return parse(data)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, type(error).__name__, what, remedy) from error


def text(**entries: Any) -> str:
    """A file with these entries."""
    return json.dumps({"format": FORMAT, **entries}, indent=2)


def write(path: Path, **entries: Any) -> None:
    """Replace a file."""
    write_atomically(path, text(**entries))


def damaged(path: Path, reason: str, what: str = "record", remedy: str = _RESTORE) -> BaseError:
    """The error for a file that says nothing that can be read."""
    return BaseError(f"the {what} is damaged: {reason}", str(path), remedy)
