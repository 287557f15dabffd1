"""The training stage in pods of a real cluster, as an operator sends it."""

import re
import time
from pathlib import Path

import pytest
import torch

from airflow_ml.compute import Phase, wait
from airflow_ml.compute.kubernetes.names import COORDINATOR, INDEX, ROLE, WORKER
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.requests import Coordinates
from airflow_ml.stages.runner import identify, stage_of
from airflow_ml.training import model_files
from tests.support.checkpoints import checkpoints_of
from tests.support.kube_cluster import real_compute, until
from tests.unit.training.conftest import model


def weights(result):
    return torch.export.load(Path(result.outputs["model"].uri) / model_files.PROGRAM).state_dict


@pytest.fixture(scope="module")
def in_pods(trainings):
    """The same training as a Job and as an MPIJob: request, result and lines of each."""
    found = {}
    for engine, (compute, request, handle) in trainings.items():
        lines: list[str] = []
        found[engine] = (request, wait(compute, handle, lines.append), lines)
    return found


@pytest.mark.parametrize("engine", ["job", "mpijob"])
def test_two_pods_train_the_model_that_two_processes_train(in_pods, local, engine):
    request, result, lines = in_pods[engine]
    assert result.fingerprint == identify(request, stage_of("train")).fingerprint
    assert not result.reused
    assert result.metrics["validation_roc_auc"] == pytest.approx(local.metrics["validation_roc_auc"], abs=1e-6)
    for name, tensor in weights(local).items():
        torch.testing.assert_close(weights(result)[name], tensor, atol=1e-6, rtol=0)
    assert any(line.startswith("INFO epoch 3/3") for line in lines), lines
    assert any("2 ranks of" in line for line in lines), lines


def test_an_elastic_training_goes_on_without_any_of_its_pods_and_takes_in_those_that_come(
    api, cluster, seats, make_request, splits, shared_base
):
    params = {"epochs": 2000, "patience": 2000, "batch_size": 64, "hidden": [16], "checkpoint_steps": 20}
    spec = real_compute(cluster.namespace, shared_base, splits)
    spec.template["spec"]["containers"][0]["resources"]["limits"][seats.resource] = "1"
    seats.offer(2)
    compute = KubernetesPods(spec, api)
    declared = model(workers=2, min_workers=1, max_workers=3, params=params)
    request = make_request(shared_base, "train", declared).model_copy(
        update={"coordinates": Coordinates(dag_id="d", task_id="elastic", run_id="r", task_instance="ti")}
    )
    handle = compute.submit(request, {})
    lines: list[str] = []

    def said(text, after=0, seconds=120.0):
        """The first line after so many others that has a text."""

        def found():
            assert compute.poll(handle).phase is Phase.RUNNING, lines
            lines.extend(compute.logs(handle))
            return [line for line in lines[after:] if text in line]

        return until(found, seconds, every_s=0.05)[0]

    def kill(role):
        """End a pod as if its node were gone; returns when, what was kept by then, and how much had been said."""
        (victim,) = cluster.list("Pod", f"{ROLE}={role},{INDEX}=0")
        kept, before = checkpoints.newest, len(lines)
        cluster.delete_pod(victim["metadata"]["name"], grace_s=0)
        return time.time(), kept, before

    def resumed(after):
        epoch, step = re.search(r"epoch (\d+) of \d+(?: and (\d+) steps)?", said("resumed after", after)).groups("0")
        return int(epoch), int(step)

    with checkpoints_of(request) as checkpoints:
        try:
            said(": 2 of 3 pods", seconds=180)
            said("epoch 2/2000")
            # One of those that were asked for has had no place until now.
            seats.offer(3)
            # Nobody can go on without a coordinator, and the next one goes on where the last one was.
            _, kept, before = kill(COORDINATOR)
            assert resumed(before) >= kept
            three = said(": 3 of 3 pods", before)
            # Of these three: otherwise the lost one is replaced before the others can go on without it.
            said("another start would be a warm one", lines.index(three, before))
            # The pod whose rank writes the checkpoints is one like any other.
            at, kept, before = kill(WORKER)
            said(": 2 of 3 pods", before)
            assert resumed(before) >= kept
            said(": 3 of 3 pods", before)
        finally:
            compute.cancel(handle)
    assert cluster.pods() == []
    # Four to five seconds where nothing else is tested meanwhile, see README.
    assert checkpoints.gap_s(at) <= 25
