"""The training stage in two pods of a real cluster, as an operator sends it."""

import time
from pathlib import Path

import pytest
import torch

from airflow_ml.compute import Phase, wait
from airflow_ml.compute.kubernetes.names import INDEX
from airflow_ml.compute.kubernetes.pods import KubernetesPods
from airflow_ml.lifecycle.requests import Coordinates
from airflow_ml.stages.runner import identify, stage_of
from airflow_ml.training import model_files
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


def test_an_elastic_training_goes_on_without_a_pod_and_takes_in_its_replacement(
    api, cluster, make_request, splits, shared_base
):
    params = {"epochs": 200, "patience": 200, "batch_size": 64, "hidden": [16], "checkpoint_steps": 20}
    compute = KubernetesPods(real_compute(cluster.namespace, shared_base, splits), api)
    request = make_request(shared_base, "train", model(workers=2, min_workers=1, params=params)).model_copy(
        update={"coordinates": Coordinates(dag_id="d", task_id="elastic", run_id="r", task_instance="ti")}
    )
    handle = compute.submit(request, {})
    seen: dict[str, float] = {}
    lines: list[str] = []

    def said(text, after=0):
        state = compute.poll(handle)
        for line in compute.logs(handle):
            lines.append(line)
            seen.setdefault(line, time.monotonic())
        assert state.phase is Phase.RUNNING, lines
        return [line for line in lines[after:] if text in line]

    try:
        until(lambda: said("generation 1: 2 of 2 pods"), 180)
        until(lambda: said("epoch 2/200"), 180)
        (victim,) = [pod for pod in cluster.pods() if pod["metadata"]["labels"][INDEX] == "1"]
        cluster.delete_pod(victim["metadata"]["name"], grace_s=0)
        lost = time.monotonic()
        until(lambda: said("generation 2: 1 of 2 pods"))
        before = len(lines)
        until(lambda: said("resumed after", before) or said("epoch ", before))
        assert time.monotonic() - lost < 20
        until(lambda: said("generation 3: 2 of 2 pods"), 180)
    finally:
        compute.cancel(handle)
    assert cluster.pods() == []
