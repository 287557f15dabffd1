"""Finding a user's model by name, and checking its declaration before anything runs."""

import importlib
import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.lifecycle.refusals import Problem, problems_of
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.spec import KubernetesCompute, Model, Platform, Reload, ServingTarget
from airflow_ml.spec.tuning import Between

_IMPORT_TIMEOUT_S = 120
_PROBE = """
import importlib, json, sys
problems = []
for entry_point in json.loads(sys.argv[1]):
    module, _, name = entry_point.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except BaseException as error:
        problems.append([entry_point, f"cannot import {module}: {type(error).__name__}: {error}"])
        continue
    if not callable(found):
        problems.append([entry_point, f"{module} has no function {name!r}"])
print("\\n" + json.dumps(problems))
"""


def find_model(name: str) -> Model:
    """The model that a command line names.

    Args:
        name: ``package.module:attribute``, or a bare name: ``flights`` is looked for as ``flights.model:flights``, then
            among the examples.

    Raises:
        SpecError: There is none, or its declaration is refused.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
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
                str(error), where=_place(error, module_name), remedy="install what the module imports"
            ) from error
        except (ValidationError, AirflowMLError):
            raise
        except (Exception, SystemExit) as error:
            raise SpecError(
                f"importing it ended with {type(error).__name__}: {error}",
                where=_place(error, module_name),
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


def _place(error: BaseException, module_name: str) -> str:
    """File and line of an error that importing a module raised: in the module itself, if it got there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    ours = str(Path(__file__))
    frames = [frame for frame in frames if frame.filename not in (ours, importlib.__file__)]
    leaf = f"{module_name.rpartition('.')[2]}.py"
    own = [frame for frame in frames if Path(frame.filename).name == leaf] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else module_name


def spec_problems(error: ValidationError) -> list[Problem]:
    """What pydantic refused; fields are named with the declaration that they belong to."""
    return [
        Problem(f"{error.title}.{found.field}" if found.field else error.title, found.what, found.fix)
        for found in problems_of(error)
    ]


def entry_points(model: Model) -> dict[str, str]:
    """Field to entry point, for every one that the model declares."""
    found = {"features.build": model.features.build, "label.compute": model.label.compute}
    if model.training.fit is not None:
        found["training.fit"] = model.training.fit
    if model.serving.builder is not None:
        found["serving.builder"] = model.serving.builder
    return found


def check_training(model: Model) -> list[Problem]:
    """Parameters that the training loop would refuse after half an hour of features."""
    from airflow_ml.training.params import parse

    try:
        parse(model.training.params, own_fit=model.training.fit is not None)
    except SpecError as error:
        return [Problem(error.where, error.what, error.remedy)]
    for name, value in _ends(model):
        try:
            parse({**model.training.params, name: value}, own_fit=model.training.fit is not None)
        except SpecError as error:
            return [Problem(f"tune.search.{name}", error.what, error.remedy)]
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


def check_entry_points(model: Model) -> list[Problem]:
    """Import the model's entry points in a process of their own: Spark, torch and user code stay out of this one."""
    wanted = entry_points(model)
    command = [sys.executable, "-c", _PROBE, json.dumps(sorted(set(wanted.values())))]
    fields = {point: field for field, point in wanted.items()}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        return [
            Problem(", ".join(wanted), f"importing takes more than {_IMPORT_TIMEOUT_S} s", "do no work at import time")
        ]
    if done.returncode != 0 or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [
            Problem(", ".join(wanted), f"importing ended the process: {last}", "import the modules by hand and see")
        ]
    found: list[tuple[str, str]] = json.loads(done.stdout.strip().splitlines()[-1])
    fix = "install the package or run this in its folder; define the function; write 'package.module:function'"
    return [Problem(fields[point], f"{point!r}: {what}", fix) for point, what in found]


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
