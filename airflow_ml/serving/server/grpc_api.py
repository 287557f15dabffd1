"""The gRPC face of the server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from airflow_ml.serving.protos.messages import METHODS
from airflow_ml.serving.server import api
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.status import of_exception

_WORKERS = 16
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def start(core: Core, address: str) -> tuple[grpc.Server, int]:
    """Listen on ``host:port``; port 0 takes a free one. Gives the server and its port.

    Raises:
        OSError: the port is taken.
    """
    calls: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
        "Predict": lambda request, _: api.predict(core, request),
        "GetModelMetadata": lambda request, _: api.get_model_metadata(core, request),
        "GetModelStatus": lambda request, _: api.get_model_status(core, request),
        "HandleReloadConfigRequest": lambda request, context: api.reload_config(
            core, request, context.time_remaining()
        ),
    }
    services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for path, (request_class, response_class) in METHODS.items():
        _, service, method = path.split("/")
        services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
            _answering(calls[method]), request_class.FromString, response_class.SerializeToString
        )
    server = grpc.server(
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="grpc"),
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    server.start()
    return server, port


def _answering(call: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(request, context)
        except Exception as error:
            status = of_exception(error)
            context.abort(_CODES[int(status.code)], status.message)

    return answer
