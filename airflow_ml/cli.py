"""`airflow-ml`: the same stages without Airflow, and the commands around them. Heavy imports wait for the command."""

import json
import logging
import os
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from airflow_ml.compute.platform import load_platform
from airflow_ml.declarations import check_entry_points, check_training, find_model, spec_problems
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.windows import Window
from airflow_ml.serving.server.flags import described
from airflow_ml.spec import Model, Platform
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
        problems = check_training(found) + check_entry_points(found)
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
        from airflow_ml.stages.runner import execute

        result = execute(request)
    except AirflowMLError as error:
        raise _fail(error) from None
    _show(result)


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

    require_readable(Path(platform.base))
    open_base(Path(platform.base))
    folder = Path(platform.serving_folder)
    ModelConfigFile(folder).create()
    ports = {"port": platform.serving.grpc, "rest_api_port": platform.serving.rest}
    return [*(f"--{flag}={address.rpartition(':')[2]}" for flag, address in ports.items()), *base_flags(folder)]


@app.command()
def demo(exit_: Annotated[bool, typer.Option("--exit", help="end after the summary, stop everything")] = False) -> None:
    """Run the whole closed loop on the flights of 2013, in a real Airflow, and show the summary."""
    from airflow_ml.examples.flights.demo.main import run_demo

    raise typer.Exit(run_demo(leave_running=not exit_))


if __name__ == "__main__":
    app()
