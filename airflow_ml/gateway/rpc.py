"""gRPC: TF Serving's own ``Predict``, with one tensor [n] a feature and one for the entity.

So whoever has a client of TF Serving has one of the gateway. The answer's outputs are those of REST, by the same names.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

import grpc
import grpc.aio

from airflow_ml.gateway.callers import INTERNAL, REQUEST_ID, asked_of, row_of, told
from airflow_ml.gateway.core import Gateway
from airflow_ml.gateway.inputs import SHOWN, Row, bad_fields, problem
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.gateway.turns import MAX_ROWS
from airflow_ml.lifecycle.errors import AirflowMLError, BadFields, InputError
from airflow_ml.serving.protos.messages import DATA_TYPES, METHODS, PredictResponse
from airflow_ml.serving.protos.single import tensors_of, values_of
from airflow_ml.serving.protos.tensors import to_numpy

log = logging.getLogger(__name__)

_SERVICE = "tensorflow.serving.PredictionService"
_TYPES = {"probability": "DT_FLOAT", "decision": "DT_BOOL", "model_version": "DT_INT64"}
_FIELDS = {"probability": "float_val", "decision": "bool_val", "model_version": "int64_val"}
_TEXTS = ("arm", "experiment", "fallback")


class GrpcApi:
    """The service of one model.

    Args:
        gateway: Answers.
        metrics: Counts.
        address: ``host:port`` to listen on; port 0 takes a free one.

    Attributes:
        port: That it listens on, after `start`.
    """

    def __init__(self, gateway: Gateway, metrics: Metrics, address: str) -> None:
        self.port = 0
        self._gateway = gateway
        self._metrics = metrics
        self._address = address
        self._name = gateway.model.name
        self._seconds = metrics.requests.labels(self._name, "grpc")
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            InputError: The port is taken.
        """
        request, response = METHODS[f"/{_SERVICE}/Predict"]
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict,
            request_deserializer=lambda content: (request.FromString(content), content),
            response_serializer=response.SerializeToString,
        )
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Predict": handler}),))
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise InputError(f"cannot listen: {error}", self._address, "choose another port") from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and finish those that are under way."""
        if self._server is not None:
            await self._server.stop(grace_s)

    async def _predict(self, sent: tuple[Any, bytes], context: Any) -> Any:
        began = time.perf_counter()
        request, content = sent
        spec = request.model_spec
        if spec.name != self._name:
            says = f"no model {spec.name!r}; this gateway answers for {self._name}"
            await context.abort(grpc.StatusCode.NOT_FOUND, says)
        try:
            if spec.version_label:
                raise InputError("a label is asked for", remedy="leave it out: the routing chooses the version")
            asked = asked_of(
                _rows(request.inputs, content),
                {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)},
                spec.version.value if spec.HasField("version") else None,
                context.time_remaining(),
            )
            answers = await self._gateway.predict(asked)
        except AirflowMLError as error:
            await self._refuse(error, context)
        except Exception:
            self._metrics.internal_errors.labels(self._name).inc()
            log.exception("a request failed by a mistake of the gateway's own")
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
        response = PredictResponse()
        response.CopyFrom(_blank(self._name, self._gateway.model.features.entity, len(answers)))
        response.model_spec.version.value = answers[0].version
        outputs = response.outputs
        rows = [row_of(answer, self._gateway.model) for answer in answers]
        for name in rows[0]:
            _fill(outputs[name], name, [row[name] for row in rows])
        context.set_trailing_metadata(((REQUEST_ID, asked.request_id),))
        self._seconds.observe(time.perf_counter() - began)
        return response

    async def _refuse(self, error: AirflowMLError, context: Any) -> NoReturn:
        seen = told(error)
        if seen.reason is not None:
            self._metrics.refused.labels(self._name, seen.reason).inc()
        text = error.what
        if isinstance(error, BadFields):
            text = "; ".join(f"row {each['row']}: {each['field']!r} {each['problem']}" for each in error.fields[:SHOWN])
        await context.abort(grpc.StatusCode[seen.code], f"{text}. Remedy: {error.remedy}")
        raise AssertionError("abort raises")


@lru_cache(maxsize=64)
def _blank(name: str, entity: str, rows: int) -> Any:
    """An answer without its values: types and shapes are the same in all of so many rows."""
    response = PredictResponse(model_spec={"name": name})
    for output in (entity, *_TYPES, *_TEXTS):
        proto = response.outputs[output]
        proto.dtype = DATA_TYPES[_TYPES.get(output, "DT_STRING")]
        proto.tensor_shape.dim.add(size=rows)
    return response


def _fill(proto: Any, name: str, values: Sequence[Any]) -> None:
    """Put the values into a tensor, in the field of their type; of texts, None is the empty one."""
    field = _FIELDS.get(name)
    if field is None:
        proto.string_val.extend([(value or "").encode() for value in values])
    else:
        getattr(proto, field).extend(values)


def _rows(inputs: Any, content: bytes) -> list[Row]:
    try:
        if (values := values_of(tensors_of(content))) is not None:
            return [{name: _plain(value) for name, value in values.items()}]
    except UnicodeDecodeError:
        pass  # which of them it is, is found below
    columns: dict[str, Sequence[Any]] = {}
    problems = []
    for name, proto in inputs.items():
        try:
            shape = [dim.size for dim in proto.tensor_shape.dim]
            # Before it is read: a few bytes may claim to stand for billions of values.
            if len(shape) != 1 or not 0 <= shape[0] <= MAX_ROWS:
                raise ValueError(f"is one value a row, of at most {MAX_ROWS} rows; got the shape {shape}")
            columns[name] = [_plain(value) for value in to_numpy(proto).tolist()]
        except ValueError as error:  # UnicodeDecodeError is one
            problems.append(problem(0, name, str(error)))
    if problems:
        raise bad_fields(problems)
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise InputError(f"the inputs are of different lengths: {lengths}", remedy="send one value a row in each")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    """As JSON has it: text, and None for what a tensor of numbers can only call not a number."""
    if isinstance(value, bytes):
        return value.decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
