"""`airflow-ml`: the same stages without Airflow, and the commands around them. Heavy imports wait for the command."""

import getpass
import json
import logging
import os
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from airflow_ml import declarations
from airflow_ml.compute.platform import load_platform
from airflow_ml.declarations import find_model, look_here, spec_problems
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.serving.server.flags import described
from airflow_ml.spec import ConfigMap, Model, Platform
from airflow_ml.version import __version__

if TYPE_CHECKING:
    from airflow_ml.lifecycle.requests import JobResult

app = typer.Typer(name="airflow-ml", no_args_is_help=True, add_completion=False, help=__doc__)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="'flights' or 'package.module:attribute'")]
From = Annotated[str | None, typer.Option("--from", help="first partition, YYYY-MM-DD")]
To = Annotated[str | None, typer.Option("--to", help="last partition; left out: the same as --from")]


def _fail(error: AirflowMLError) -> typer.Exit:
    typer.secho(f"{type(error).__name__}: {error.what}", fg="red", err=True)
    if error.where:
        typer.echo(f"  where:  {error.where}", err=True)
    if error.remedy:
        typer.echo(f"  remedy: {error.remedy}", err=True)
    return typer.Exit(1)


def _window(start: str | None, end: str | None) -> Window | None:
    if start is None and end is None:
        return None
    try:
        first, last = date.fromisoformat(start or end or ""), date.fromisoformat(end or start or "")
        return Window.of(first, last)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ").partition("; ")[0]
        raise SpecError(what, where="--from, --to", remedy="swap --from and --to") from error
    except ValueError as error:
        raise SpecError(str(error), where="--from, --to", remedy="write dates like 2013-01-31") from error


def _parameters(pairs: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SpecError(f"{pair!r} has no value", where="--param", remedy="write --param version=3")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="show the version and end")] = False) -> None:
    """The whole life of a machine-learning model, from the command line."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    look_here()


@app.command()
def check(model: ModelName) -> None:
    """Refuse a wrong declaration, with the field, what is wrong, and the fix."""
    try:
        found = find_model(model)
        platform = load_platform(os.environ)
    except ValidationError as error:
        problems = spec_problems(error)
    except AirflowMLError as error:
        raise _fail(error) from None
    else:
        problems = declarations.check(found, platform, os.environ)
        if not problems:
            inputs, gates = len(found.features.columns), len(found.gates)
            typer.echo(f"{found.name}: ok ({inputs} inputs, {gates} gates, base {platform.base})")
            return
    for problem in problems:
        typer.secho(str(problem), fg="red", err=True)
    raise typer.Exit(1)


@app.command()
def run(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="ingest, validate, features, train, score …")],
    model: ModelName,
    start: From = None,
    end: To = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="stage parameter, key=value")] = None,
) -> None:
    """Run one stage here, as Airflow would run it: the same code, the same base, the same results."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        request = JobRequest(
            stage=stage,
            model=_load(model),
            platform=load_platform(os.environ),
            window=_window(start, end),
            params=_parameters(param or []),
        )
        result = _executed(request)
    except AirflowMLError as error:
        raise _fail(error) from None
    _show(result)


def _executed(request: JobRequest) -> "JobResult":
    """Run a stage; a rollout is one that is run again and again, until it has ended."""
    from airflow_ml.stages.runner import execute

    if request.stage != "rollout":
        return execute(_searched(request) if request.stage == "tune" else request)
    from airflow_ml.stages.rollout import run_until_ended

    return run_until_ended(request, lambda line: typer.echo(line))


@app.command()
def rollback(
    model: ModelName,
    version: Annotated[int | None, typer.Option("--version", help="former champion; left out: the one before")] = None,
    reason: Annotated[str, typer.Option("--reason", help="kept in the release record")] = "",
) -> None:
    """Bring the traffic back: from the version on its way, or from the champion to the one before it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        params = {"mode": "rollback", "version": version, "by": getpass.getuser(), "reason": reason}
        result = _executed(
            JobRequest(stage="rollout", model=_load(model), platform=load_platform(os.environ), params=params)
        )
    except AirflowMLError as error:
        raise _fail(error) from None
    _show(result)


def _searched(request: JobRequest) -> JobRequest:
    """The request that records a search, after the search; its trials run where the platform trains."""
    from airflow_ml.compute import Api, open_compute
    from airflow_ml.compute.search import STUDIES, Search
    from airflow_ml.stages.context import StageContext

    def cluster(conn_id: str) -> Api:
        from airflow_ml.hooks.kubernetes import cluster

        return cluster(conn_id)

    training_set = StageContext(request).upstream("training_set")
    request = request.model_copy(update={"inputs": {"training_set": training_set.uri}})
    secrets = {name: value for name in (STUDIES, *request.platform.connections) if (value := os.environ.get(name))}
    compute = open_compute(request.platform.compute_for("train"), cluster)
    study = Search(request, compute, secrets, lambda line: typer.echo(line, err=True)).run()
    return request.model_copy(update={"params": {**request.params, "study": study}})


def _load(name: str) -> Model:
    try:
        return find_model(name)
    except ValidationError as error:
        problem = spec_problems(error)[0]
        raise SpecError(
            problem.what, where=problem.field, remedy=f"{problem.fix}; see airflow-ml check {name}"
        ) from error


def _show(result: "JobResult") -> None:
    how = "reused" if result.reused else "done"
    typer.secho(f"{result.stage} {result.window or ''}: {how}, {result.rows} rows, {result.wall_s:.1f} s", bold=True)
    for name, output in result.outputs.items():
        typer.echo(f"  {name}: {output.uri}" + (f" version {output.version}" if output.kind == "table" else ""))
    for name, report in result.reports.items():
        typer.echo(f"  report {name}: {report.uri}")
    for name, value in result.metrics.items():
        typer.echo(f"  {name}: {'not available' if value is None else f'{value:.6g}'}")
    if result.summary:
        for name, fact in result.summary.items():
            shown = f"{len(fact)}, {fact[0]} .. {fact[-1]}" if isinstance(fact, list) and len(fact) > 8 else fact
            typer.echo(f"  {name}: {shown if isinstance(shown, str) else json.dumps(shown, default=str)}")


@app.command()
def status(model: ModelName, as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False) -> None:
    """Champion, challengers, newest partitions and verdicts of a model."""
    from airflow_ml.status import model_status, render

    try:
        found = model_status(_load(model), load_platform(os.environ))
    except AirflowMLError as error:
        raise _fail(error) from None
    typer.echo(json.dumps(found, indent=2, default=str) if as_json else render(found))


@app.command(
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
        raise _fail(error) from None
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


@app.command(name="sync-models")
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
    import signal
    import threading

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
        raise _fail(error) from None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sync.follow(every, stop)


@app.command()
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
        found, platform = _load(model), load_platform(os.environ)
        require_readable(Path(platform.base))
        open_base(Path(platform.base))
        serve_gateway(found, platform, host, port, grpc_port)
    except AirflowMLError as error:
        raise _fail(error) from None


@app.command()
def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="end after the summary, stop everything")] = False,
    pods: Annotated[bool, typer.Option("--pods", help="train in pods of the cluster of KUBECONFIG")] = False,
) -> None:
    """Run the whole closed loop on the flights of 2013, in a real Airflow, and show the summary."""
    from airflow_ml.examples.flights.demo.main import run_demo

    raise typer.Exit(run_demo(leave_running=not exit_, pods=pods))


if __name__ == "__main__":
    app()
