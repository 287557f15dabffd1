"""What ranks exchange, seen on the wire and in what is learnt: one start of two ranks tries nearly all of it."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airflow_ml.spec import Horovod
from airflow_ml.training import model_files
from airflow_ml.training.context import FitContext
from airflow_ml.training.launch import launch
from tests.unit.training.conftest import training_job
from tests.unit.training.user_fits import OTHER_SEED

pytestmark = pytest.mark.slow


def timeline(path):
    """Horovod's own record of what it did: name of a tensor to (activities, dtypes)."""
    text = path.read_text().rstrip().rstrip(",").rstrip("]")
    names, found = {}, {}
    for event in json.loads(text + "]"):
        if event.get("name") == "process_name":
            names[event["pid"]] = event["args"].get("name", "")
        elif "pid" in event:
            activities, dtypes = found.setdefault(names.get(event["pid"]), (set(), set()))
            activities.add(event.get("name"))
            dtypes.add(event.get("args", {}).get("dtype"))
    return found


@pytest.fixture(scope="module")
def tried(splits, tmp_path_factory):
    """Weights and quality by variant, and the timeline of the exchange."""

    folder = tmp_path_factory.mktemp("exchange")
    job = training_job(splits, folder, workers=2, fit="tests.unit.training.user_fits:all_exchanges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOROVOD_TIMELINE", str(folder / "timeline.json"))
        launch(job, folder / "work", lambda event: None)
    history = json.loads((Path(job.out) / model_files.HISTORY).read_text())["history"]
    return {entry["variant"]: entry for entry in history}, timeline(folder / "timeline.json")


def test_a_batch_in_parts_makes_the_same_step(tried):
    found, _ = tried
    assert found["in_parts"]["weights"] == pytest.approx(found["plain"]["weights"], abs=1e-6)


def test_compressed_gradients_cross_the_wire_in_half_the_bits(tried):
    found, wire = tried
    for tensor, dtype in {
        "allreduce.gradients": "float32",
        "allreduce.gradients.fp16": "float16",
        "allgather.bf16.mean": "int16",
    }.items():
        assert wire[tensor][1] - {None} == {dtype}, tensor
    assert "alltoall.bf16.parts" in wire
    for variant in ("fp16", "bf16"):
        assert found[variant]["weights"] != found["plain"]["weights"]
        assert found[variant]["weights"] == pytest.approx(found["plain"]["weights"], abs=0.01)


def test_adasum_local_steps_and_bfloat16_learn_otherwise_and_as_well(tried):
    found, wire = tried
    for variant in ("adasum", "local", "mixed"):
        assert found[variant]["weights"] != pytest.approx(found["plain"]["weights"], abs=1e-5), variant
        assert found[variant]["auc"] == pytest.approx(found["plain"]["auc"], abs=0.02), variant
    # Weights are exchanged instead of gradients.
    assert "allreduce.local" in wire
    assert not any("allreduce.local." in tensor or "allreduce.adasum." in tensor for tensor in wire)


def test_a_weight_that_only_one_rank_touches_is_learnt_by_all(tried):
    found, _ = tried
    for variant in ("uneven_1", "uneven_4"):
        assert found[variant]["weights"] != [0.0], variant


def test_a_network_of_ones_own_with_declared_fusion_cycle_time_and_seed(tried, job, tmp_path, monkeypatch):
    monkeypatch.setenv("HOROVOD_TIMELINE", str(tmp_path / "timeline.json"))
    told = {"fusion_threshold_mb": 0, "cycle_time_ms": 100, "seed": OTHER_SEED}
    params = {"temperature": 3, "learning_rate": 0.05}
    own = job(workers=2, fit="tests.unit.training.user_fits:own_network", params=params, **told)
    assert launch(own, tmp_path / "work", lambda event: None)["validation_roc_auc"] > 0.7
    weights = torch.export.load(Path(own.out) / model_files.PROGRAM).state_dict["layer.weight"]
    assert weights.shape == (1, 3)
    # The seed and nothing else makes other weights: the same steps with it end where these do.
    found, _ = tried
    assert weights.flatten().tolist() == pytest.approx(found["seeded"]["weights"], abs=1e-5)
    assert found["plain"]["weights"] != pytest.approx(found["seeded"]["weights"], abs=1e-3)
    history = json.loads((Path(own.out) / model_files.HISTORY).read_text())["history"]
    # 17 steps, each of which waits for a cycle.
    assert history[0]["seconds"] > 17 * 0.09
    activities = timeline(tmp_path / "timeline.json")["allreduce.layer.weight"][0]
    assert "MEMCPY_IN_FUSION_BUFFER" not in activities
    with pytest.raises(ValueError, match="cycle_time_ms"):
        Horovod(cycle_time_ms=0)


def test_torch_numpy_and_python_draw_the_same_again_after_a_checkpoint():
    def drawn(seed, rank, *at):
        FitContext.seed_everything(SimpleNamespace(seed=seed, rank=rank), *at)
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    once = drawn(1, 0, 2, 40)
    assert drawn(1, 0, 2, 40) == once
    for other in ((2, 0, 2, 40), (1, 1, 2, 40), (1, 0, 3, 40), (1, 0, 2, 80)):
        assert not set(drawn(*other)) & set(once)
    # Networks are built the same on every rank.
    assert drawn(1, 0, 0) == drawn(1, 1, 0)


def test_gradients_of_a_step_are_one_message_unless_fusion_is_declared(tried):
    _, wire = tried
    assert "allreduce.gradients" in wire
    assert not [tensor for tensor in wire if tensor and "allreduce.plain" in tensor]


def test_horovod_leaves_the_cores_alone_while_there_is_nothing_to_exchange(job, tmp_path):
    """As it comes from PyPI it takes a tenth of a core, and more where cores are busy: our build of it sleeps."""
    resting = job(workers=2, fit="tests.unit.training.user_fits:rests")
    launch(resting, tmp_path / "work", lambda event: None)
    (entry,) = json.loads((Path(resting.out) / model_files.HISTORY).read_text())["history"]
    assert entry["cores"] < 0.04
