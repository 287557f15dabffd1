"""Requests that are run together: each caller gets its own answer, or its own error."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from airflow_ml.serving.client import connect_async
from airflow_ml.serving.errors import ModelNotServed, RequestRefused
from airflow_ml.serving.protos.messages import ModelSpec, PredictRequest, PredictResponse, TensorProto
from airflow_ml.serving.server import config
from airflow_ml.serving.server.batching import MOST, Batcher
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.server.grpc_api import GrpcServer
from airflow_ml.serving.server.loan import Loan
from airflow_ml.serving.server.rows import Sent
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


class Held:
    """Stands for a core: notes which requests are run together, and holds each batch until it is let go."""

    def __init__(self):
        self.batches = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.pool = ThreadPoolExecutor(8)

    def lend(self, _spec):
        return Loan(None, self.pool, lambda: None)

    def together(self, _servable, requests):
        self.batches.append(len(requests))
        self.started.release()
        assert self.go.acquire(timeout=WAIT)
        return [request.content for request in requests]


@pytest.fixture
def held(monkeypatch):
    found = Held()
    monkeypatch.setattr("airflow_ml.serving.server.batching.api.predict_together", found.together)
    yield found
    found.pool.shutdown()


def asked(number, model="half"):
    return Sent(PredictRequest(model_spec={"name": model}, output_filter=["y"]), b"%d" % number)


async def running(held):
    assert await asyncio.to_thread(held.started.acquire, timeout=WAIT)


def test_what_arrives_while_a_batch_runs_is_the_next_one(held):
    async def arrive():
        batcher = Batcher(held, asyncio.get_running_loop())
        first = asyncio.create_task(batcher.predict(asked(0)))
        await running(held)
        others = [asyncio.create_task(batcher.predict(asked(n))) for n in range(1, MOST + 3)]
        await asyncio.sleep(0)
        assert held.batches == [1], "the first waited for nobody"
        held.go.release(3)
        return await asyncio.gather(first, *others)

    assert asyncio.run(arrive()) == [b"%d" % n for n in range(MOST + 3)]
    assert held.batches == [1, MOST, 2]


def test_one_model_does_not_wait_for_another(held):
    async def arrive():
        batcher = Batcher(held, asyncio.get_running_loop())
        both = [asyncio.create_task(batcher.predict(asked(0, model))) for model in ("half", "other")]
        for _ in both:
            await running(held)
        held.go.release(2)
        await asyncio.gather(*both)

    asyncio.run(arrive())
    assert held.batches == [1, 1]


def test_who_has_gone_is_not_run(held):
    async def arrive():
        batcher = Batcher(held, asyncio.get_running_loop())
        tasks = [asyncio.create_task(batcher.predict(asked(0)))]
        await running(held)
        tasks += [asyncio.create_task(batcher.predict(asked(n))) for n in (1, 2)]
        await asyncio.sleep(0)
        for task in tasks[:2]:
            task.cancel()
        held.go.release(2)
        return await asyncio.gather(*tasks, return_exceptions=True)

    *gone, last = asyncio.run(arrive())
    assert [type(answer) for answer in gone] == [asyncio.CancelledError] * 2
    assert last == b"2"
    assert held.batches == [1, 1]
