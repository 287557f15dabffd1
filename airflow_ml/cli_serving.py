"""The commands that stay: a model server, the gateway before it, and what brings versions to a server's disk."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from airflow_ml.cli_shared import ModelName, fail, load
from airflow_ml.compute.platform import load_platform
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.serving.server.flags import described
from airflow_ml.spec import ConfigMap, Platform

serving = typer.Typer()


@serving.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    # Paragraphs, which a terminal's width does not join.
    epilog="\n\n".join(["Flags, each with its default:", *described()]),
)
def serve(context: typer.Context) -> None:
    """Serve released models: tensorflow_model_server when it is on PATH, else a stand-in with its flags and protocols.

    Without flags it serves the platform's serving folder on the platform's addresses; with any, only what they say.
    """
    from airflow_ml.serving.server import command

    try:
        argv = command(list(context.args) or _serve_flags(load_platform(os.environ)))
    except AirflowMLError as error:
        raise fail(error) from None
    os.execvp(argv[0], argv)


def _serve_flags(platform: Platform) -> list[str]:
    from airflow_ml.serving.deployment import ModelConfigFile
    from airflow_ml.serving.server import base_flags
    from airflow_ml.stages.workspace import open_base
    from airflow_ml.status import require_readable

    if platform.serving_folder.startswith("s3://") or isinstance(platform.serving.config, ConfigMap):
        raise SpecError(
            "the platform's servers run elsewhere: what they serve is in S3, or their config in Kubernetes",
            where="the platform's serving target",
            remedy="docker/kubernetes/tf-serving.yaml has such servers; to start one here, give it TF Serving's flags",
        )
    require_readable(Path(platform.base))
    open_base(Path(platform.base))
    folder = Path(platform.serving_folder)
    ModelConfigFile(folder).create()
    ports = {"port": platform.serving.grpc, "rest_api_port": platform.serving.rest}
    return [*(f"--{flag}={address.rpartition(':')[2]}" for flag, address in ports.items()), *base_flags(folder)]


@serving.command(name="sync-models")
def sync_models(
    source: Annotated[str, typer.Option("--from", help="where versions are published: s3://bucket/prefix")],
    folder: Annotated[Path, typer.Option("--to", help="folder that the server reads")],
    config: Annotated[Path, typer.Option("--config", help="models.config to follow, as it is mounted")],
    copy: Annotated[Path | None, typer.Option("--copy-config", help="where the server polls it")] = None,
    every: Annotated[float, typer.Option("--every", help="seconds between rounds", min=0.1)] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="one round, as an init container needs it")] = False,
) -> None:
    """Keep a model server's disk at what its config names: fetch versions whole, remove those that are named no more.

    A version appears when it is complete, and before the config that names it; it goes after the config that no longer
    does.
    """
    from airflow_ml.serving.stopping import Stop
    from airflow_ml.serving.targets.buckets import S3Shelf
    from airflow_ml.serving.targets.syncing import Sync

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        if not source.startswith("s3://"):
            raise SpecError(f"{source!r} is not in S3", where="--from", remedy="write s3://bucket/prefix")
        sync = Sync(S3Shelf(source, str(folder)), folder.absolute(), config.absolute(), copy and copy.absolute())
        if once:
            for problem in sync.round():
                typer.secho(problem, fg="red", err=True)
            return
    except AirflowMLError as error:
        raise fail(error) from None
    sync.follow(every, Stop.on_signals().wait)


@serving.command()
def gateway(
    model: ModelName,
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="REST; 0 takes a free one")] = 8600,
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="gRPC; 0 takes a free one")] = 8601,
) -> None:
    """Answer requests of raw features by name: routed by the release record, checked, rescued, logged to the lake."""
    from airflow_ml.gateway.main import run as serve_gateway
    from airflow_ml.stages.workspace import open_base
    from airflow_ml.status import require_readable

    try:
        found, platform = load(model), load_platform(os.environ)
        require_readable(Path(platform.base))
        open_base(Path(platform.base))
        serve_gateway(found, platform, host, port, grpc_port)
    except AirflowMLError as error:
        raise fail(error) from None
