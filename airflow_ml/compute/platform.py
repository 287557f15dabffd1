"""Where the platform comes from: a module's attribute, or plain settings; never a user's model file.

The CLI reads ``AIRFLOW_ML_*`` variables; `airflow_ml.hooks` reads the same names from Airflow's configuration or a
connection.
"""

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.imports import place
from airflow_ml.lifecycle.refusals import problems_of
from airflow_ml.spec import Platform

SETTINGS: dict[str, tuple[str, ...]] = {
    "base": ("base",),
    "landing": ("landing",),
    "checkpoints": ("checkpoints",),
    "registry": ("registry",),
    "registry_ui": ("registry_ui",),
    "python": ("compute", "python"),
    "grace_s": ("compute", "grace_s"),
    "serving_folder": ("serving", "folder"),
    "serving_grpc": ("serving", "grpc"),
    "serving_rest": ("serving", "rest"),
    "serving_seen_as": ("serving", "seen_as"),
    "serving_config": ("serving", "config"),
    "serving_replicas": ("serving", "replicas"),
    "serving_conn_id": ("serving", "conn_id"),
    "smtp_conn_id": ("alerts", "smtp_conn_id"),
    "alerts_to": ("alerts", "to"),
    "alerts_sender": ("alerts", "sender"),
    "connections": ("connections",),
    "computes": ("computes",),
    "prices": ("prices",),
}
"""Name of a setting to the field of `Platform` that it fills."""

PREFIX = "AIRFLOW_ML_"

_JSON = {
    "connections": '{"VARIABLE": "connection_id"}',
    "computes": '{"train": {"kind": "kubernetes", "namespace": "ml", "image": "acme/trainer:1"}}',
    "serving_config": '{"kind": "configmap", "namespace": "ml", "name": "models"}',
    "prices": '{"gpu_hour": 2.5, "cpu_hour": 0.04, "currency": "EUR"}',
}
"""Settings that are JSON, with an example."""

_LISTS = ("alerts_to", "serving_replicas")
"""Settings that are separated by commas."""

_OF_OTHERS = re.compile(r"(CONN|TEST)_|STUDIES$|.*_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
"""Names behind the prefix that are no settings and are read: what connections hand over, our tests, a search; and what
Kubernetes tells pods of a Service whose name begins like ours."""


def unread(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none."""
    known = {f"{PREFIX}{name.upper()}" for name in ("platform", *SETTINGS)}
    return sorted(
        name
        for name in environ.keys() - known
        if name.startswith(PREFIX) and not _OF_OTHERS.match(name.removeprefix(PREFIX))
    )


def load_platform(environ: Mapping[str, str]) -> Platform:
    """The platform of environment variables.

    ``AIRFLOW_ML_PLATFORM=module:attribute`` names one, or ``AIRFLOW_ML_BASE`` and the other names of `SETTINGS` make
    one; without any, the base is ``airflow-ml`` in the user's data folder.

    Raises:
        SpecError: They make no platform.
    """
    settings = {name: value for name in ("platform", *SETTINGS) if (value := environ.get(f"{PREFIX}{name.upper()}"))}
    if not settings.keys() & {"platform", "base"}:
        data = environ.get("XDG_DATA_HOME") or f"{environ.get('HOME') or Path.home()}/.local/share"
        settings["base"] = f"{data}/airflow-ml"
    return platform_from(settings, where=f"{PREFIX}* variables")


def platform_from(settings: Mapping[str, Any], where: str) -> Platform:
    """A platform from settings.

    Args:
        settings: ``platform`` alone, or names of `SETTINGS`; some separate by commas, some are JSON.
        where: They come from, for messages.

    Raises:
        SpecError: They make no platform.
    """
    given = {name: value for name, value in settings.items() if value not in (None, "")}
    named = given.pop("platform", None)
    if named is not None:
        if given:
            raise SpecError(
                f"`platform` and {', '.join(sorted(given))} are both set",
                where=where,
                remedy="set one platform, or plain settings",
            )
        return _named(str(named), where)
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in SETTINGS:
            raise SpecError(
                f"there is no setting {name!r}", where=where, remedy=f"use {', '.join(['platform', *SETTINGS])}"
            )
        *parents, field = SETTINGS[name]
        target = fields
        for parent in parents:
            target = target.setdefault(parent, {})
        target[field] = _parsed(name, value, where)
    try:
        return Platform.model_validate(fields)
    except ValidationError as error:
        first = problems_of(error, quote=False)[0]
        names = {".".join(path): name for name, path in SETTINGS.items()}
        # A compute's kind stands between it and its field.
        field = first.field.replace("compute.local.", "compute.")
        raise SpecError(f"{names.get(field, field)}: {first.what}", where=where, remedy=first.fix) from error


def _parsed(name: str, value: Any, where: str) -> Any:
    if name in _LISTS and isinstance(value, str):
        return [address.strip() for address in value.split(",") if address.strip()]
    if name in _JSON and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise SpecError(f"`{name}` is not JSON", where=where, remedy=f"write {_JSON[name]}") from error
    return value


def _named(name: str, where: str) -> Platform:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AirflowMLError:
        raise
    except ValidationError as error:
        first = problems_of(error, quote=False)[0]
        what = f"the platform {name!r} is refused: {error.title}.{first.field}: {first.what}"
        raise SpecError(what, where=place(error, module), remedy=first.fix) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"no platform {name!r}: {error}", where=where, remedy="write module:attribute of a Platform"
        ) from error
    except (Exception, SystemExit) as error:
        raise SpecError(
            f"importing the platform {name!r} ended with {type(error).__name__}: {error}",
            where=place(error, module),
            remedy="correct the file; it must be importable by `python -c 'import ...'`",
        ) from error
    if not isinstance(found, Platform):
        raise SpecError(f"{name!r} is not a Platform", where=where, remedy="write module:attribute of a Platform")
    return found
