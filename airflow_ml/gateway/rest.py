"""REST: ``POST /v1/models/<model>:predict`` in TF Serving's row format, with features where that has tensors."""

from __future__ import annotations

import json
import logging
import time
import zlib
from typing import Any, NoReturn

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from airflow_ml.gateway.callers import INTERNAL, REQUEST_ID, asked_of, row_of, told
from airflow_ml.gateway.core import Gateway
from airflow_ml.gateway.inputs import SHOWN, Row, bad_fields, problem
from airflow_ml.gateway.metrics import Metrics
from airflow_ml.lifecycle.errors import AirflowMLError, BadFields, InputError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
"""Also after it was unpacked."""

_GZIP = zlib.MAX_WBITS | 16

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class RestApi:
    """The routes of one model.

    Args:
        gateway: Answers.
        metrics: Shown and counted.
    """

    def __init__(self, gateway: Gateway, metrics: Metrics) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._name = gateway.model.name
        self._seconds = metrics.requests.labels(self._name, "rest")

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/models/{model}:predict", self._predict, methods=["POST"]),
                Route("/v1/models/{model}", self._describe),
                Route("/metrics", self._show_metrics),
                Route("/healthz", self._healthy),
                Route("/readyz", self._ready),
            ],
            exception_handlers={HTTPException: self._no_route},
        )

    async def _predict(self, request: Request) -> Response:
        began = time.perf_counter()
        name = request.path_params["model"]
        if name != self._name:
            return self._unknown(name)
        try:
            content = await _body(request)
            if content is None:
                self._metrics.refused.labels(self._name, "too_large").inc()
                return JSONResponse({"error": f"the request is larger than {MAX_BODY_BYTES} bytes"}, 413)
            asked = asked_of(_rows(content), request.headers)
            answers = await self._gateway.predict(asked)
        except AirflowMLError as error:
            return self._refuse(error)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except Exception:
            self._metrics.internal_errors.labels(self._name).inc()
            log.exception("a request failed by a mistake of the gateway's own")
            return JSONResponse({"error": INTERNAL, "remedy": "report it, with what the gateway's log says"}, 500)
        self._seconds.observe(time.perf_counter() - began)
        body = {
            "predictions": [row_of(answer, self._gateway.model) for answer in answers],
            "request_id": asked.request_id,
        }
        return Response(_encode(body), media_type="application/json", headers={REQUEST_ID: asked.request_id})

    def _refuse(self, error: AirflowMLError) -> Response:
        seen = told(error)
        if seen.reason is not None:
            self._metrics.refused.labels(self._name, seen.reason).inc()
        body: dict[str, Any] = {"error": error.what, "remedy": error.remedy}
        if isinstance(error, BadFields):
            body["fields"] = list(error.fields[:SHOWN])
        return JSONResponse(body, seen.status)

    async def _describe(self, request: Request) -> Response:
        """What the model takes, and who answers now."""
        name, _, verb = request.path_params["model"].partition(":")
        if verb:
            raise HTTPException(405, headers={"Allow": "POST"}) if verb == "predict" else HTTPException(404)
        if name != self._name:
            return self._unknown(name)
        lines = self._gateway.lines
        if lines is None:
            return JSONResponse({"model": name, "routing": None}, 503)
        return JSONResponse(
            {
                "model": name,
                "entity": self._gateway.model.features.entity,
                "inputs": lines.releases[lines.routing.stable].signature,
                "routing": lines.routing.model_dump(mode="json"),
            }
        )

    def _unknown(self, name: str) -> Response:
        return JSONResponse(
            {"error": f"no model {name!r} here", "remedy": f"this gateway answers for {self._name}"}, 404
        )

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body = {
            "error": f"{request.method} {request.url.path}: {error.detail}",
            "remedy": f"POST /v1/models/{self._name}:predict; GET /v1/models/{self._name}, /metrics, /healthz, /readyz",
        }
        return JSONResponse(body, error.status_code, headers=error.headers)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _healthy(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, request: Request) -> Response:
        if self._gateway.lines is None:
            return PlainTextResponse("no champion that can be trusted\n", 503)
        return PlainTextResponse("ok\n")


async def _body(request: Request) -> bytes | None:
    """The whole body, unpacked; None if it is too large, which is found before all of it is in memory.

    Raises:
        InputError: It is not packed as it says.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    content = b"".join(parts)
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding in ("", "identity"):
        return content
    unpacker = zlib.decompressobj(_GZIP)
    try:
        if encoding != "gzip":
            raise ValueError(f"Content-Encoding is {encoding[:40]!r}")
        content = unpacker.decompress(content, MAX_BODY_BYTES + 1)
        if len(content) <= MAX_BODY_BYTES and not unpacker.eof:
            raise ValueError("it ends early")
    except (ValueError, zlib.error) as error:
        raise InputError(f"the body is not gzip: {error}", remedy="send it plain, or as gzip") from error
    return content if len(content) <= MAX_BODY_BYTES else None


def _rows(content: bytes) -> list[Row]:
    try:
        # Of bytes, json would take what is no UTF-8: half a surrogate pair, which nothing behind us can pass on.
        body = json.loads(content.decode(), parse_constant=_no_constant)
        if b"\\u" in content:
            json.dumps(body, ensure_ascii=False).encode()  # nor may it come as an escape
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the body is not JSON: {error}", remedy='send {"instances": [{…}]}, with null where a value is not known'
        ) from error
    rows = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise InputError("the body has no list 'instances'", remedy='send {"instances": [{…}]}')
    problems = [
        problem(place, "instances", "is an object of features by name")
        for place, row in enumerate(rows)
        if not isinstance(row, dict)
    ]
    if problems:
        raise bad_fields(problems)
    return rows


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
