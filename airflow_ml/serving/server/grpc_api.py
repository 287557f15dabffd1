"""The gRPC face of the server: one event loop in a thread of its own.

A quick model is asked in the loop, where a request costs least; a slow one in the threads of its version, so that the
loop goes on taking requests for the others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from airflow_ml.serving.protos.messages import METHODS
from airflow_ml.serving.protos.tensors import MOST_BYTES, StandsForMore
from airflow_ml.serving.server import api
from airflow_ml.serving.server.batching import Batcher
from airflow_ml.serving.server.core import Core
from airflow_ml.serving.server.flags import Flags, channel_arguments
from airflow_ml.serving.server.http_body import LARGEST
from airflow_ml.serving.server.options import Tls, tls
from airflow_ml.serving.server.pace import SMALL_BYTES
from airflow_ml.serving.server.rows import Sent
from airflow_ml.serving.server.servable import Servable
from airflow_ml.serving.server.status import of_exception

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """Listens as soon as it is made.

    Args:
        core: The models.
        flags: Port, socket, TLS, arguments of the gRPC server.

    Attributes:
        port: On which it listens.

    Raises:
        OSError: the port or the socket is taken.
    """

    def __init__(self, core: Core, flags: Flags) -> None:
        self._core = core
        self._loop = _event_loop()
        self._reloads = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._batcher = Batcher(core, self._loop) if flags.enable_batching else None
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()
        self._server, self.port = self._run(self._started(flags)).result()

    def stop(self, grace: float) -> None:
        """Take nothing new, and give requests in flight some seconds."""
        self._run(self._server.stop(grace)).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._reloads.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _started(self, flags: Flags) -> tuple[Any, int]:
        options: dict[str, int | str] = {
            "grpc.max_receive_message_length": LARGEST,
            "grpc.max_send_message_length": LARGEST,
            "grpc.so_reuseport": 0,
            **dict(channel_arguments(flags.grpc_channel_arguments)),
        }
        server = grpc.aio.server(options=list(options.items()))
        server.add_generic_rpc_handlers(self._handlers())
        security = tls(flags.ssl_config_file)
        addresses = [f"{flags.host}:{flags.port}"]
        if flags.grpc_socket_path:
            addresses.append(f"unix:{flags.grpc_socket_path}")
        ports = [_listen(server, address, security) for address in addresses]
        await server.start()
        return server, ports[0]

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services: dict[str, dict[str, Any]] = {}
        for path, (request_class, response_class) in METHODS.items():
            _, service, method = path.split("/")
            read = _sent(request_class) if method in api.INFERENCES else request_class.FromString
            services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
                _answering(self._call(method)), read, response_class.SerializeToString
            )
        handlers = [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]
        return tuple(handlers)

    def _call(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        if method in api.INFERENCES:
            return self._inference(method)
        if method == "HandleReloadConfigRequest":
            return self._reload

        look = {"GetModelMetadata": api.get_model_metadata, "GetModelStatus": api.get_model_status}[method]

        async def answer(request: Any, _: Any) -> Any:
            return look(self._core, request)

        return answer

    def _inference(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        core, batcher = self._core, self._batcher if method == "Predict" else None

        def infer(servable: Servable, sent: Sent, most: int = MOST_BYTES) -> Any:
            if method == "Predict":
                return servable.predict(*sent, most=most)
            return api.INFERENCES[method](servable, sent.message)

        async def answer(sent: Sent, _: Any) -> Any:
            spec = api.spec_of(sent.message)
            with api.measured(core, spec.name, method, "GRPC"):
                loan = core.lend(spec)
                if loan.quick(len(sent.content)):
                    try:
                        with loan as servable:
                            return (
                                infer(servable, sent, SMALL_BYTES) if batcher is None else await batcher.predict(sent)
                            )
                    except StandsForMore:  # few bytes, of which much is made
                        loan = core.lend(spec)
                return await asyncio.wrap_future(loan.run(lambda: infer(loan.servable, sent)))

        return answer

    async def _reload(self, request: Any, context: Any) -> Any:
        return await self._loop.run_in_executor(
            self._reloads, api.reload_config, self._core, request, context.time_remaining()
        )


def _event_loop() -> asyncio.AbstractEventLoop:
    """A loop in C where there is one: with Python's own a request costs a quarter more."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _listen(server: Any, address: str, security: Tls | None) -> int:
    try:
        if security is None:
            port: int = server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(security.key.encode(), security.certificate.encode())],
                root_certificates=security.ca.encode() or None,
                require_client_auth=security.client_verify,
            )
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    return port


def _sent(message: Any) -> Callable[[bytes], Sent]:
    return lambda content: Sent(message.FromString(content), content)


def _answering(call: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await call(request, context)
        except Exception as error:
            status = of_exception(error)
            await context.abort(_CODES[int(status.code)], status.message)

    return answer
