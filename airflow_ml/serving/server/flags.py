"""The command line: TF Serving's own flags, as ``--flag=value`` or ``--flag value``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")

_TRUE = {"true", "1", "t", "yes"}
_FALSE = {"false", "0", "f", "no"}


def _flag(default: T, says: str) -> T:
    return field(default=default, metadata={"help": says})


@dataclass(frozen=True)
class Flags:
    """What the server is started with. Names and defaults are TF Serving's unless said otherwise."""

    port: int = _flag(8500, "gRPC; here, unlike there, 0 takes a free port")
    rest_api_port: int = _flag(
        -1, "REST; -1 (ours, for 'not given') serves none; here, unlike there, 0 takes a free port"
    )
    host: str = _flag("127.0.0.1", "ours: the address to listen on; loopback, where TF Serving listens on all")
    model_name: str = _flag("default", "the one model without a config file")
    model_base_path: str = _flag("", "its folder of versions, absolute")
    model_config_file: str = _flag("", "ModelServerConfig as text; the two before are then ignored")
    model_config_file_poll_wait_seconds: float = _flag(0, "how often the file is read again; 0 never")
    file_system_poll_wait_seconds: float = _flag(1, "how often folders are looked at; 0 once")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "accept a new label of a version that is not loaded, as a config with labels needs at the start"
    )
    max_num_load_retries: int = _flag(5, "more attempts after a version failed to load")
    load_retry_interval_micros: int = _flag(60_000_000, "the wait between them, in microseconds")
    enable_model_warmup: bool = _flag(True, "run the requests in assets.extra before a version is available")
    monitoring_config_file: str = _flag("", "MonitoringConfig as text: whether and where REST shows Prometheus metrics")
    rest_api_timeout_in_ms: int = _flag(30_000, "how long a REST request may run")
    grpc_socket_path: str = _flag("", "a Unix socket to listen on, too")
    grpc_channel_arguments: str = _flag("", "arguments of the gRPC server: key=value, separated by commas")
    ssl_config_file: str = _flag("", "SSLConfig as text: TLS, and mutual TLS, for gRPC")
    enable_batching: bool = _flag(
        False, "run predict requests that arrive together in one call; nobody waits for company"
    )
    batching_parameters_file: str = _flag("", "must be there, with enable_batching; its values are not heeded")
    saved_model_tags: str = _flag("serve", "tags of the graph to load from a SavedModel, separated by commas")
    enable_signature_method_name_check: bool = _flag(
        False, "classify and regress only by signatures that are declared so, as TensorFlow 2 does not"
    )
    prefer_tflite_model: bool = _flag(False, "serve model.tflite where a version has one, else saved_model.pb")


#: What is taken so that a command line of TF Serving starts here, and has no meaning here.
UNHEEDED: Mapping[str, type] = {
    "enable_per_model_batching_parameters": bool,
    "enable_profiler": bool,
    "flush_filesystem_caches": bool,
    "grpc_max_threads": int,
    "num_load_threads": int,
    "num_request_iterations_for_warmup": int,
    "num_tflite_interpreters_per_pool": int,
    "num_tflite_pools": int,
    "num_unload_threads": int,
    "per_process_gpu_memory_fraction": float,
    "platform_config_file": str,
    "remove_unused_fields_from_bundle_metagraph": bool,
    "rest_api_enable_cors_support": bool,
    "rest_api_num_threads": int,
    "tensorflow_inter_op_parallelism": int,
    "tensorflow_intra_op_parallelism": int,
    "tensorflow_session_config_file": str,
    "tensorflow_session_parallelism": int,
    "thread_pool_factory_config_file": str,
    "xla_cpu_compilation_enabled": bool,
    "xla_gpu_compilation_enabled": bool,
}


def unheeded(argv: Sequence[str]) -> list[str]:
    """The flags of a command line that have no meaning here."""
    given = {argument.partition("=")[0] for argument in argv}
    return [name for name in ("batching_parameters_file", *UNHEEDED) if f"--{name}" in given]


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """``grpc_channel_arguments`` as gRPC takes them: whole numbers as numbers.

    Raises:
        ValueError: one of them is not of the form ``key=value``.
    """
    found: list[tuple[str, int | str]] = []
    for argument in filter(None, text.split(",")):
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"--grpc_channel_arguments: {argument!r} is not of the form key=value")
        found.append((key, int(value) if value.lstrip("-").isdecimal() else value))
    return found


def described() -> list[str]:
    """A line for each flag, for people."""
    heeded = [f"--{flag.name}={_shown(flag.default)}: {flag.metadata['help']}" for flag in fields(Flags)]
    return [*heeded, "--version: say which this is", f"taken and not heeded: {', '.join(UNHEEDED)}"]


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def parse(argv: Sequence[str]) -> Flags:
    """Read a command line.

    Raises:
        SystemExit: a flag is unknown, or there is nothing to serve, with the reason on stderr; or all that was asked
            for is the version, which is on stdout.
    """
    parser = argparse.ArgumentParser(
        prog="airflow-ml model server",
        description="A stand-in for tensorflow_model_server, for machines without it.",
        allow_abbrev=False,
    )
    for flag in fields(Flags):
        _add(parser, flag.name, _TYPES[str(flag.type)], flag.default, flag.metadata["help"])
    for name, kind in UNHEEDED.items():
        _add(parser, name, kind, kind(), "taken and not heeded")
    _add(parser, "version", bool, False, "say which this is")
    given = vars(parser.parse_args(argv))
    if given["version"]:
        print(_version())
        raise SystemExit(0)
    flags = Flags(**{flag.name: given[flag.name] for flag in fields(Flags)})
    if not flags.model_config_file and not flags.model_base_path:
        parser.error("Both server_options.model_base_path and server_options.model_config_file are empty!")
    try:
        channel_arguments(flags.grpc_channel_arguments)
    except ValueError as error:
        parser.error(str(error))
    if flags.model_base_path and not os.path.isabs(flags.model_base_path):
        parser.error(f"Expected model_base_path to be an absolute path; got {flags.model_base_path}")
    return flags


def _add(parser: argparse.ArgumentParser, name: str, kind: type, default: object, says: str) -> None:
    # TF Serving takes a bare --flag for true
    bare: dict[str, Any] = {"nargs": "?", "const": True} if kind is bool else {}
    read = _boolean if kind is bool else kind
    parser.add_argument(f"--{name}", type=read, default=default, metavar=kind.__name__.upper(), help=says, **bare)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from airflow_ml import __version__

    library = "unknown"
    for package in ("tensorflow", "tensorflow-cpu"):
        with suppress(PackageNotFoundError):
            library = version(package)
    server = f"airflow-ml model server (stand-in for tensorflow_model_server): {__version__}"
    return f"{server}\nTensorFlow Library: {library}"


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


_TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
