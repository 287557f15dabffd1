"""Requests that are run together: each caller gets its own answer, or its own error."""

import asyncio
import threading
import time

import grpc
import numpy as np
import pytest

from airflow_ml.serving.client import connect_async
from airflow_ml.serving.errors import ModelNotServed, RequestRefused
from airflow_ml.serving.protos.messages import ModelSpec, PredictRequest, PredictResponse, TensorProto
from airflow_ml.serving.server import config
from airflow_ml.serving.server.batching import LONGEST_S, Batcher
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.grpc_api import GrpcServer
from airflow_ml.serving.server.servable import Servable
from tests.contract.conftest import WAIT
from tests.support.saved_models import half_plus_two

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_ANY_LENGTH = [("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def batching(half):
    """A server in this process that runs requests together, with ``half`` in it."""
    yield from serving(half, together=True)


@pytest.fixture(scope="module", params=[False, True], ids=["each", "together"])
def either(half, request):
    """A server that runs requests each by itself, and one that runs them together."""
    yield from serving(half, together=request.param)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    base = tmp_path_factory.mktemp("batching") / "half"
    half_plus_two(base / "1")
    return base


def serving(base, together):
    flags = Flags(port=0, enable_batching=together, file_system_poll_wait_seconds=0)
    core = Core(flags)
    core.reload(config.single("half", str(base)), timeout=WAIT)
    server = GrpcServer(core, flags)
    yield f"grpc://127.0.0.1:{server.port}", core
    server.stop(0)
    core.close()


async def until_quick(client, core):
    """Ask one by one until the server has seen that the model is quick: only then it is asked where requests arrive."""
    spec = ModelSpec(name="half")
    for _ in range(500):
        await client.predict("half", {"x": [0.0]})
        with core.lend(spec) as servable:
            if servable.pace.quick:
                return
    pytest.fail("the model is not quick on this machine")


@pytest.fixture
def together(monkeypatch):
    """How many requests each joint call answered."""
    sizes = []
    real = Servable.predict_together

    def counted(self, requests):
        sizes.append(len(requests))
        return real(self, requests)

    monkeypatch.setattr(Servable, "predict_together", counted)
    return sizes


def test_each_gets_its_own_rows(batching, together):
    url, core = batching
    rows = [[float(n)] * (1 + n % 3) for n in range(200)]

    async def asked():
        async with connect_async(url, deadline=60) as client:
            await until_quick(client, core)
            return await asyncio.gather(*(client.predict("half", {"x": row}) for row in rows))

    for _ in range(5):  # on a machine that does other things they may arrive one by one
        for row, answer in zip(rows, asyncio.run(asked()), strict=True):
            np.testing.assert_allclose(answer.outputs["y"], [x / 2 + 2 for x in row])
            assert answer.version == 1
        if together:
            break
    assert max(together, default=0) > 1, "nothing arrived together"


def test_a_mistake_is_only_its_own(batching):
    url, core = batching

    async def asked():
        async with connect_async(url, deadline=60) as client:
            await until_quick(client, core)
            good = [client.predict("half", {"x": [float(n)]}) for n in range(60)]
            wrong = [
                client.predict("half", {"x": ["text"]}),
                client.predict("half", {"x": [1.0], "z": [1.0]}),
                client.predict("half", {"x": [1.0]}, version=9),
            ]
            return await asyncio.gather(*good[:30], *wrong, *good[30:], return_exceptions=True)

    answers = asyncio.run(asked())
    errors = [type(answer) for answer in answers if isinstance(answer, Exception)]
    assert errors == [RequestRefused, RequestRefused, ModelNotServed]
    values = [float(answer.outputs["y"][0]) for answer in answers if not isinstance(answer, Exception)]
    assert values == [n / 2 + 2 for n in range(60)]


def test_what_is_made_of_few_bytes_is_not_made_where_requests_arrive(either, monkeypatch):
    url, core = either
    threads = []
    real = Servable.run

    def noted(self, *args):
        threads.append(threading.current_thread().name)
        return real(self, *args)

    async def asked(count):
        request = PredictRequest(model_spec={"name": "half"})
        request.inputs["x"].CopyFrom(TensorProto(dtype=1, float_val=[2.0]))
        request.inputs["x"].tensor_shape.dim.add(size=count)
        async with grpc.aio.insecure_channel(url.removeprefix("grpc://"), options=_ANY_LENGTH) as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                request_serializer=PredictRequest.SerializeToString,
                response_deserializer=PredictResponse.FromString,
            )
            async with connect_async(url, deadline=60) as client:
                await until_quick(client, core)
            monkeypatch.setattr(Servable, "run", noted)
            return (await call(request, timeout=60)).outputs["y"].float_val

    assert set(asyncio.run(asked(2_000_000))) == {3.0}
    assert threads[0].startswith("version")


class Counting:
    """Stands for a core: notes which requests are run together."""

    def __init__(self):
        self.batches = []

    def together(self, _core, requests):
        self.batches.append(len(requests))
        return list(requests)


@pytest.fixture
def counting(monkeypatch):
    found = Counting()
    monkeypatch.setattr("airflow_ml.serving.server.batching.api.predict_together", found.together)
    return found


def asked(numbers):
    return [PredictRequest(model_spec={"name": "half"}, output_filter=["y"]) for _ in numbers]


async def come(batcher, request):
    """As a handler does: its message is here, and it asks at once."""
    batcher.arrived()
    return await batcher.predict(request)


def test_who_is_at_the_door_is_waited_for_and_nobody_else(counting, monkeypatch):
    monkeypatch.setattr(
        "airflow_ml.serving.server.batching.LONGEST_S", 30.0
    )  # a busy machine stalls for longer than 1 ms

    async def arrive():
        batcher = Batcher(None, asyncio.get_running_loop())
        first, second, third = asked(range(3))
        batcher.announced()
        await come(batcher, first)  # nobody else is known of
        assert counting.batches == [1]
        for _ in range(2):
            batcher.announced()
        early = asyncio.create_task(come(batcher, second))
        for _ in range(3):
            await asyncio.sleep(0)
        late = asyncio.create_task(come(batcher, third))
        assert await asyncio.gather(early, late) == [second, third]
        assert counting.batches == [1, 2]

    asyncio.run(arrive())


def test_who_was_announced_and_never_comes_is_waited_for_once_and_briefly(counting):
    async def arrive():
        batcher = Batcher(None, asyncio.get_running_loop())
        one, two = asked(range(2))
        for _ in range(2):
            batcher.announced()
        began = time.perf_counter()
        await come(batcher, one)
        assert LONGEST_S <= time.perf_counter() - began < 1
        waiting = asyncio.create_task(batcher.predict(two))
        await asyncio.sleep(0)
        assert counting.batches == [1, 1]
        await waiting

    asyncio.run(arrive())
