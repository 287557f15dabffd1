"""What is held against a version: what it answers, or does not; never what it could not be asked."""

import asyncio

import httpx
import numpy as np
import pytest

from airflow_ml.gateway.asking import Asker, Withheld, name_of
from airflow_ml.gateway.core import Gateway
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.rest import RestApi
from airflow_ml.gateway.trial import IN_A_ROW
from airflow_ml.lifecycle.routing import Route
from airflow_ml.serving.calls import Target
from airflow_ml.serving.client import connect_async
from airflow_ml.serving.errors import AnswerUnreadable, ServerUnreachable
from airflow_ml.serving.grpc_client import GrpcSpeaker
from airflow_ml.serving.protos.messages import DATA_TYPES, PredictResponse
from airflow_ml.serving.rest_client import RestSpeaker
from tests.support.online import model

NOBODY = "grpc://127.0.0.1:9"
CANARY = Route("canary", 2)


def test_what_cannot_be_sent_or_is_given_up_is_no_failure_of_the_version():
    async def asked() -> None:
        async with connect_async(NOBODY) as server:
            asker = Asker("small", server, Metrics("small"))

            def attempt(text: str):
                return asker.attempt(CANARY, 1, {"carrier": np.array([text], dtype=object)}, 1, 0.05)

            for _ in range(IN_A_ROW + 1):
                with pytest.raises(UnicodeEncodeError):
                    await attempt("\ud800")
                task = asyncio.create_task(attempt("AA"))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for _ in range(IN_A_ROW):
                with pytest.raises(ServerUnreachable):
                    await attempt("AA")
            with pytest.raises(Withheld):
                await attempt("AA")

    asyncio.run(asked())


def test_an_answer_that_cannot_be_read_names_who_gave_it():
    response = PredictResponse()
    response.outputs["probability"].dtype = DATA_TYPES["DT_RESOURCE"]
    call = GrpcSpeaker(NOBODY).predict(Target("small", 2), {})
    with pytest.raises(AnswerUnreadable, match="DT_RESOURCE is not supported") as refused:
        call.heard(response)
    assert f"{NOBODY} model small version 2" in str(refused.value)
    assert name_of(refused.value) == "wrong_answer"
    for answer in ([], {}, {"outputs": [[1], [2, 3]]}):
        with pytest.raises(AnswerUnreadable):
            RestSpeaker("http://nobody").predict(Target("small"), {}).heard(answer)


class Mistaken(Gateway):
    """A gateway with a mistake of ours in it."""

    async def predict(self, asked):
        raise ZeroDivisionError("by a mistake")


def test_a_mistake_of_ours_is_told_as_json_and_counted(caplog):
    metrics = Metrics(model.name)
    app = RestApi(Mistaken(model, None, None, metrics), metrics).app()

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            return await client.post("/v1/models/small:predict", json={"instances": [{}]})

    answer = asyncio.run(asked())
    assert (answer.status_code, answer.json()["error"]) == (500, "the gateway failed; its log says how")
    assert 'internal_errors_total{model="small"} 1.0' in metrics.text().decode()
    assert "ZeroDivisionError: by a mistake" in caplog.text
