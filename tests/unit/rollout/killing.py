"""The stage `rollout` in processes that kill themselves with signal 9 right after a named operation, or a saved state.

They are forked from a process that has imported everything, so that a run costs what it does, and not seconds of
imports. Nothing of gRPC or MLflow is opened before the fork.
"""

import multiprocessing
import queue
from typing import Any

import deltalake  # noqa: F401
import mlflow.tracking  # noqa: F401
import numpy  # noqa: F401
import pyarrow.dataset  # noqa: F401

from airflow_ml.lifecycle.errors import AirflowMLError
from airflow_ml.lifecycle.requests import JobRequest
from airflow_ml.lifecycle.rollout import Rollout
from airflow_ml.lifecycle.rollout_operations import Operation
from airflow_ml.registry import rollouts
from airflow_ml.serving import client, deployment, golden, grpc_client, probe, rest_client  # noqa: F401
from airflow_ml.stages import _rollout_driver, runner
from airflow_ml.stages import rollout as stage  # noqa: F401
from tests.support.killing import die

Moment = tuple[str, str]
"""A state, and what was done in it: the kind of an operation with its label, or ``saved``."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def of(rollout: Rollout, operation: Operation) -> Moment:
    return f"{rollout.state} {rollout.step}", " ".join(filter(None, (operation.kind, operation.label)))


def _install(moment: Moment | None) -> None:
    carry_out, save = _rollout_driver.carry_out, rollouts.save

    def carrying(ctx: Any, server: Any, rollout: Rollout, operation: Operation) -> Any:
        found = carry_out(ctx, server, rollout, operation)
        if of(rollout, operation) == moment:
            die()
        return found

    def saving(platform: Any, new: Rollout) -> Rollout:
        saved = save(platform, new)
        if moment == (f"{new.state} {new.step}", "saved"):
            die()
        return saved

    _rollout_driver.carry_out = carrying
    rollouts.save = saving


def _run(request: str, moment: Moment | None, said: Any) -> None:
    _install(moment)
    try:
        runner.execute(JobRequest.model_validate_json(request))
        said.put("done")
    except AirflowMLError as error:
        said.put(f"{type(error).__name__}: {error.what}")


def run(*requests: JobRequest, moment: Moment | None = None) -> tuple[list[int | None], list[str]]:
    """Run requests at the same time, each in a process of its own; exit codes, and what those said that lived."""
    said = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_run, args=(each.model_dump_json(), moment, said)) for each in requests]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    answers: list[str] = []
    while sum(process.exitcode == 0 for process in processes) > len(answers):
        try:
            answers.append(said.get(timeout=5))
        except queue.Empty:
            break
    return [process.exitcode for process in processes], answers
