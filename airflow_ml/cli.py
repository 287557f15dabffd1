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
from airflow_ml.cli_serving import serving
from airflow_ml.cli_shared import ModelName, fail, load
from airflow_ml.compute.platform import load_platform
from airflow_ml.declarations import find_model, look_here, spec_problems
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.version import __version__

if TYPE_CHECKING:
    from airflow_ml.lifecycle.requests import JobResult

app = typer.Typer(name="airflow-ml", no_args_is_help=True, add_completion=False, help=__doc__)

From = Annotated[str | None, typer.Option("--from", help="first partition, YYYY-MM-DD")]
To = Annotated[str | None, typer.Option("--to", help="last partition; left out: the same as --from")]


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
        raise fail(error) from None
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
            model=load(model),
            platform=load_platform(os.environ),
            window=_window(start, end),
            params=_parameters(param or []),
        )
        result = _executed(request)
    except AirflowMLError as error:
        raise fail(error) from None
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
    version: Annotated[
        int | None, typer.Option("--version", help="former champion; else the one before, once in 5 min")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="kept in the release record")] = "",
) -> None:
    """Bring the traffic back: from the version on its way, or from the champion to the one before it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        params = {"mode": "rollback", "version": version, "by": getpass.getuser(), "reason": reason}
        result = _executed(
            JobRequest(stage="rollout", model=load(model), platform=load_platform(os.environ), params=params)
        )
    except AirflowMLError as error:
        raise fail(error) from None
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
        found = model_status(load(model), load_platform(os.environ))
    except AirflowMLError as error:
        raise fail(error) from None
    typer.echo(json.dumps(found, indent=2, default=str) if as_json else render(found))


@app.command()
def vacuum(
    model: ModelName,
    days: Annotated[int, typer.Option("--days", help="age of what goes from tables", min=1)] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show it")] = False,
) -> None:
    """Remove files of partitions that were replaced, and of attempts that were killed; never a training set's."""
    from airflow_ml.housekeeping import sweep
    from airflow_ml.status import require_readable

    try:
        platform = load_platform(os.environ)
        require_readable(Path(platform.base))
        found = sweep(load(model), platform, days, dry_run)
    except AirflowMLError as error:
        raise fail(error) from None
    for leftovers in found:
        typer.echo(f"{leftovers.where}: {leftovers.files} files, {leftovers.size_bytes / 1e6:,.1f} MB")
    typer.secho(f"{'to remove' if dry_run else 'removed'}: {sum(each.files for each in found)} files", bold=True)


app.add_typer(serving)


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
