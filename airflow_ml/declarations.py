"""Finding a user's model by name, and checking its declaration before anything runs."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airflow_ml.compute.platform import PREFIX, SETTINGS, unread
from airflow_ml.entry_points import check_entry_points
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.imports import place
from airflow_ml.lifecycle.refusals import Problem, problems_of
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute, Model, Platform, Reload, ServingTarget
from airflow_ml.spec.tuning import Between


def look_here() -> str:
    """Let modules of the working folder be found, as `python -m` does; returns the folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def find_model(name: str) -> Model:
    """The model that a command line names.

    Args:
        name: ``package.module:attribute``, or a bare name: ``flights`` is looked for as ``flights.model:flights``, then
            among the examples.

    Raises:
        SpecError: There is none, or its declaration is refused.
    """
    here = look_here()
    candidates = [name] if ":" in name else [f"{name}.model:{name}", f"airflow_ml.examples.{name}.model:{name}"]
    for candidate in candidates:
        module_name, _, attribute = candidate.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only "there is no such module" sends us on; a module that is there and lacks one of its own imports is an
            # error.
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                continue
            raise SpecError(
                str(error), where=place(error, module_name), remedy="install what the module imports"
            ) from error
        except (ValidationError, AirflowMLError):
            raise
        except (Exception, SystemExit) as error:
            raise SpecError(
                f"importing it ended with {type(error).__name__}: {error}",
                where=place(error, module_name),
                remedy="correct the file; it must be importable by `python -c 'import ...'`",
            ) from error
        model = getattr(module, attribute, None)
        if not isinstance(model, Model):
            raise SpecError(
                f"{module_name} has no Model called {attribute!r}", remedy="name it as package.module:attribute"
            )
        return model
    raise SpecError(
        f"no model {name!r}: looked for {', '.join(candidates)}",
        where=here,
        remedy="run this in the folder that holds the package, or name the model as package.module:attribute",
    )


def spec_problems(error: ValidationError) -> list[Problem]:
    """What pydantic refused; fields are named with the declaration that they belong to."""
    return [
        Problem(f"{error.title}.{found.field}" if found.field else error.title, found.what, found.fix)
        for found in problems_of(error)
    ]


def check(model: Model, platform: Platform, environ: Mapping[str, str]) -> list[Problem]:
    """All that would be refused later, or would be done otherwise than it reads.

    Args:
        model: The declaration.
        platform: Where it is to live.
        environ: That the platform came from.
    """
    return [
        *check_environment(environ),
        *check_base(model, platform),
        *check_training(model),
        *check_pods(model, platform),
        *check_serving(platform),
        *check_entry_points(model),
    ]


def check_environment(environ: Mapping[str, str]) -> list[Problem]:
    """Variables that look like ours and that nothing reads: a misspelt one leaves its setting at the default."""
    known = ", ".join(f"{PREFIX}{name.upper()}" for name in ("platform", *SETTINGS))
    return [
        Problem(name, "there is no such setting", f"correct or unset it; there are {known}") for name in unread(environ)
    ]


def check_base(model: Model, platform: Platform) -> list[Problem]:
    """A base that the first stage would refuse: of a newer package, or with another model of this name."""
    from airflow_ml.stages.workspace import require_name
    from airflow_ml.status import require_readable

    base = Path(platform.base)
    try:
        require_readable(base)
        require_name(base, model)
    except AirflowMLError as error:
        return [Problem(error.where, error.what, error.remedy)]
    return []


def check_training(model: Model) -> list[Problem]:
    """Parameters that the training loop would refuse after half an hour of features."""
    from airflow_ml.training.params import parse

    own_fit = model.training.fit is not None
    given: list[tuple[str, dict[str, Any]]] = [("training.params", {})]
    given += [(f"tune.search.{name}", {name: value}) for name, value in _ends(model)]
    for field, searched in given:
        try:
            params = parse({**model.training.params, **searched}, own_fit=own_fit)
        except SpecError as error:
            return [Problem(field if searched else error.where, error.what, error.remedy)]
        ranks = model.training.ranks
        if not own_fit and params.batch_size < ranks:
            what = f"a step of {params.batch_size} rows leaves some of the {ranks} processes without any"
            where = field if "batch_size" in searched else "training.params.batch_size"
            return [Problem(where, what, f"choose {ranks} or more, or fewer workers")]
    return []


def _ends(model: Model) -> Iterator[tuple[str, Any]]:
    """Each parameter that is searched for, with its outermost values."""
    for name, where in (model.tune.search if model.tune else {}).items():
        for value in (where.low, where.high) if isinstance(where, Between) else where.values:
            yield name, value


def check_pods(model: Model, platform: Platform) -> list[Problem]:
    """What would be refused when a stage is submitted to a cluster: no image, too many GPUs, a template of ours."""
    from airflow_ml.compute.kubernetes.podspec import shape_of
    from airflow_ml.compute.kubernetes.templates import check

    found: dict[str, Problem] = {}
    for stage in ("train", *platform.computes):
        compute = platform.compute_for(stage)
        if isinstance(compute, KubernetesCompute):
            try:
                check(compute.template)
                shape_of(JobRequest(stage=stage, model=model, platform=platform), compute)
            except SpecError as error:
                found.setdefault(f"{error.where}{error.what}", Problem(error.where, error.what, error.remedy))
    return list(found.values())


def check_serving(platform: Platform) -> list[Problem]:
    """What a release would stumble over: two ways to say where the servers are that do not fit together."""
    target, found = platform.serving, list[Problem]()
    if isinstance(target.config, Reload) and not (Path(platform.config_folder) / "models.config").exists():
        found.append(
            Problem(
                "platform.serving.config",
                f"Reload() sends the whole config, and there is no record of it in {platform.config_folder}",
                "put the servers' models.config there; for servers without models, one that says model_config_list {}",
            )
        )
    ports = {each.rpartition(":")[2] for each in target.replicas}
    if target.replicas and target.rest.rpartition(":")[2] in ports:
        found.append(
            Problem(
                "platform.serving.replicas",
                f"port {target.rest.rpartition(':')[2]} is the one of `rest`",
                "name the gRPC port of each server, 8500 as a rule",
            )
        )
    usual = ServingTarget().grpc
    if target.replicas and target.grpc == usual and usual not in target.replicas:
        found.append(
            Problem(
                "platform.serving.grpc",
                f"requests go to {usual}, which is none of the replicas",
                "set `grpc` and `rest` to the Service, or to one of the servers",
            )
        )
    return found
