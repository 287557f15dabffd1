"""Hours of cores and GPUs: of those that are there, those that are gone, and the attempts before."""

import pytest

from airflow_ml.compute.platform import load_platform
from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.training.usage import Ledger, Meter, Usage


def test_each_pod_counts_from_its_start_to_its_end():
    meter = Meter()
    meter.begin("pod 0", since=-5, cores=4, gpus=1)
    meter.begin("pod 1", since=0, cores=4, gpus=2)
    meter.end("pod 1", now=10)
    meter.end("pod 1", now=99)
    assert meter.event(now=20) == {"event": "usage", "rank": -1, "cpu_s": 25 * 4 + 10 * 4, "gpu_s": 25 + 20}


def test_attempts_add_up_and_each_is_counted_once(tmp_path):
    for attempt, seconds in (("a", 5.0), ("a", 10.0), ("b", 2.0)):
        Ledger(tmp_path / "usage", attempt).note({"event": "usage", "cpu_s": seconds, "gpu_s": 1.0})
    assert Ledger(tmp_path / "usage", "c").total() == Usage(cpu_s=12.0, gpu_s=2.0)


def test_prices_are_a_setting_of_the_platform(tmp_path):
    settings = {"AIRFLOW_ML_BASE": str(tmp_path), "AIRFLOW_ML_PRICES": '{"gpu_hour": 2.5, "currency": "USD"}'}
    prices = load_platform(settings).prices
    assert (prices.gpu_hour, prices.cpu_hour, prices.currency) == (2.5, 0.0, "USD")
    with pytest.raises(SpecError, match="gpu_hour"):
        load_platform({**settings, "AIRFLOW_ML_PRICES": '{"gpu_hour": -1}'})
