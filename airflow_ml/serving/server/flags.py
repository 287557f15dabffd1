"""The command line: TF Serving's own flags, as ``--flag=value`` or ``--flag value``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

_TRUE = {"true", "1", "t", "yes"}
_FALSE = {"false", "0", "f", "no"}


@dataclass(frozen=True)
class Flags:
    """What the server is started with. Names and defaults are TF Serving's unless said otherwise.

    Attributes:
        port: gRPC. Here, unlike there, 0 takes a free port.
        rest_api_port: REST; -1 (ours, for "not given") serves none. Here, unlike there, 0 takes a free port.
        host: Ours: the address to listen on. Loopback, where TF Serving listens on all.
        model_name: The one model without a config file.
        model_base_path: Its folder of versions.
        model_config_file: ``ModelServerConfig`` as text; the two before are then ignored.
        model_config_file_poll_wait_seconds: How often the file is read again; 0 never.
        file_system_poll_wait_seconds: How often folders are looked at; 0 once.
        allow_version_labels_for_unavailable_models: Accept a *new* label of a version that is not loaded, which a
            config with labels needs when the server starts.
        max_num_load_retries: More attempts after a version failed to load.
        load_retry_interval_micros: The wait between them, in microseconds.
        enable_model_warmup: Run the requests in ``assets.extra`` before a version is available.
    """

    port: int = 8500
    rest_api_port: int = -1
    host: str = "127.0.0.1"
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: float = 0
    file_system_poll_wait_seconds: float = 1
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True


def parse(argv: Sequence[str]) -> Flags:
    """Read a command line.

    Raises:
        SystemExit: a flag is unknown, or there is nothing to serve; the reason is on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="airflow-ml model server",
        description="A stand-in for tensorflow_model_server, for machines without it.",
        allow_abbrev=False,
    )
    for field in fields(Flags):
        kind: Any = _TYPES[str(field.type)]
        # TF Serving takes a bare --flag for true
        bare: dict[str, Any] = {"nargs": "?", "const": True} if kind is _boolean else {}
        parser.add_argument(
            f"--{field.name}", type=kind, default=field.default, metavar=str(field.type).upper(), **bare
        )
    flags = Flags(**vars(parser.parse_args(argv)))
    if not flags.model_config_file and not flags.model_base_path:
        parser.error("Both server_options.model_base_path and server_options.model_config_file are empty!")
    if flags.model_base_path and not os.path.isabs(flags.model_base_path):
        parser.error(f"Expected model_base_path to be an absolute path; got {flags.model_base_path}")
    return flags


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


_TYPES = {"int": int, "float": float, "str": str, "bool": _boolean}
