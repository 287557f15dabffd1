"""The base folder: its format, and who owns a model's name."""

import json
from pathlib import Path

from airflow_ml.lifecycle.errors import BaseError, NameTaken
from airflow_ml.lifecycle.requests import FORMAT
from airflow_ml.spec import Model
from airflow_ml.storage import locked, sha256, storage_error, verify, write_atomically
from airflow_ml.version import __version__

__all__ = [
    "check_base",
    "claim_name",
    "locked",
    "open_base",
    "require_name",
    "sha256",
    "storage_error",
    "verify",
    "write_atomically",
]


def open_base(base: Path) -> None:
    """Mark a base as one that this package writes into: a package that does not know our format then refuses it.

    Raises:
        BaseError: Not writable, or of a newer format.
    """
    if check_base(base) < FORMAT:
        with locked(base / ".airflow_ml.lock"):
            # The mark only rises, also when two versions of the package come at once.
            if check_base(base) < FORMAT:
                write_atomically(_marker(base), json.dumps({"format": FORMAT, "written_by": __version__}))


def check_base(base: Path) -> int:
    """The format of what is in a base, 0 where nothing is; changes nothing.

    Raises:
        BaseError: A newer package wrote into it, or its mark cannot be read.
    """
    try:
        found = json.loads(_marker(base).read_text(encoding="utf-8"))
        version = int(found["format"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise BaseError(
            "not a marker of ours", where=str(_marker(base)), remedy="restore the file, or choose another base"
        ) from error
    if version > FORMAT:
        raise BaseError(
            f"written by airflow-ml {found.get('written_by', '?')} in format {version}; "
            f"this is {__version__}, which knows {FORMAT}",
            where=str(base),
            remedy="upgrade airflow-ml here, or choose another base",
        )
    return version


def _marker(base: Path) -> Path:
    return base / "airflow_ml.json"


def claim_name(base: Path, model: Model) -> None:
    """Bind a model's name to its declaring module in this base; the first of several that come at once gets it.

    Raises:
        NameTaken: A model of this name is declared elsewhere.
    """
    record = _name_record(base, model)
    if not record.exists():
        with locked(record.with_suffix(".lock")):
            if not record.exists():
                write_atomically(record, json.dumps(_declared(model)))
    require_name(base, model)


def require_name(base: Path, model: Model) -> None:
    """Make sure that nobody else's model has this name here; binds nothing.

    A module without a package, like ``__main__`` or a DAG file, can be another file of the same name: there, the
    entry point of the features has to agree, too.

    Raises:
        NameTaken: A model of this name is declared elsewhere.
        BaseError: The record cannot be read.
    """
    record, mine = _name_record(base, model), _declared(model)
    where = str(record)
    try:
        owner = json.loads(record.read_text(encoding="utf-8"))
        declared_in = owner["declared_in"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise BaseError(
            f"the record of whose name this is, is damaged: {type(error).__name__}",
            where=where,
            remedy="delete it: the next stage of the model writes it again",
        ) from error
    remedy = "give one of them another name; if the declaration only moved or changed, delete this record"
    if declared_in != mine["declared_in"]:
        raise NameTaken(
            f"{model.name!r} belongs to the model declared in {declared_in!r}; "
            f"this one is declared in {model.declared_in!r}",
            where=where,
            remedy=remedy,
        )
    if "." not in model.declared_in and owner.get("build", mine["build"]) != mine["build"]:
        raise NameTaken(
            f"{model.name!r} belongs to a model declared in another {model.declared_in!r}: its features are built by "
            f"{owner['build']!r}, this one's by {mine['build']!r}",
            where=where,
            remedy=remedy,
        )


def _name_record(base: Path, model: Model) -> Path:
    return base / "models" / f"{model.name}.json"


def _declared(model: Model) -> dict[str, str]:
    return {"declared_in": model.declared_in, "build": model.features.build}
