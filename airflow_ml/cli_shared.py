"""What the commands share: how a model is named and found, and how an error is shown."""

from typing import Annotated

import typer
from pydantic import ValidationError

from airflow_ml.declarations import find_model, spec_problems
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.spec import Model

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="'flights' or 'package.module:attribute'")]


def fail(error: AirflowMLError) -> typer.Exit:
    """Show an error; raise what is returned."""
    typer.secho(f"{type(error).__name__}: {error.what}", fg="red", err=True)
    if error.where:
        typer.echo(f"  where:  {error.where}", err=True)
    if error.remedy:
        typer.echo(f"  remedy: {error.remedy}", err=True)
    return typer.Exit(1)


def load(name: str) -> Model:
    """The model of this name.

    Raises:
        SpecError: There is none, or its declaration is wrong.
    """
    try:
        return find_model(name)
    except ValidationError as error:
        problem = spec_problems(error)[0]
        raise SpecError(
            problem.what, where=problem.field, remedy=f"{problem.fix}; see airflow-ml check {name}"
        ) from error
