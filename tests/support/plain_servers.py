"""Model servers without models: TF Serving's protocol over real gRPC, and versions that are as a test wants."""

from concurrent import futures
from contextlib import contextmanager

import grpc

from airflow_ml.serving.protos.messages import ERROR_CODES, METHODS, VERSION_STATES, SignatureDefMap


class PlainServer:
    """Loads what it is told at once, unless told otherwise.

    Attributes:
        config: What it was told last.
        told: How often.
        lagging: It takes configs, and loads nothing that is new.
        refuses: It says this to a config.
        before_reload: Called with each config.
    """

    def __init__(self):
        self.config = None
        self.told = 0
        self.lagging = False
        self.refuses = ""
        self.before_reload = lambda _: None
        self._loaded = {}
        self._server = None
        self.port = 0

    @property
    def address(self):
        return f"grpc://127.0.0.1:{self.port}"

    def start(self):
        """Again on the same port, without memory."""
        self.config, self._loaded = None, {}
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        services = {}
        for path, (request, response) in METHODS.items():
            _, service, method = path.split("/")
            work = {
                "HandleReloadConfigRequest": self._reload,
                "GetModelStatus": self._status,
                "GetModelMetadata": self._metadata,
            }.get(method)
            if work is not None:
                services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
                    lambda asked, context, work=work, response=response: work(asked, context, response()),
                    request.FromString,
                    response.SerializeToString,
                )
        for service, methods in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self):
        self._server.stop(0).wait()

    def entry(self, model):
        entries = self.config.model_config_list.config if self.config is not None else ()
        return next((entry for entry in entries if entry.name == model), None)

    def _reload(self, request, context, response):
        self.before_reload(request.config)
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refuses)
        self.config, self.told = request.config, self.told + 1
        for entry in self.config.model_config_list.config:
            known = self._loaded.get(entry.name, set())
            wanted = set(entry.model_version_policy.specific.versions)
            self._loaded[entry.name] = known & wanted if self.lagging else wanted
        return response

    def _status(self, request, context, response):
        version = request.model_spec.version.value
        entry = self.entry(request.model_spec.name)
        if entry is None or version not in entry.model_version_policy.specific.versions:
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find it")
        ready = version in self._loaded[entry.name]
        response.model_version_status.add(
            version=version,
            state=VERSION_STATES["AVAILABLE" if ready else "LOADING"],
            status={"error_code": ERROR_CODES["OK"]},
        )
        return response

    def _metadata(self, request, context, response):
        entry = self.entry(request.model_spec.name)
        label = request.model_spec.version_label
        if entry is None or label not in entry.version_labels:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        response.model_spec.version.value = entry.version_labels[label]
        signatures = SignatureDefMap()
        signatures.signature_def["serving_default"].SetInParent()
        response.metadata["signature_def"].Pack(signatures)
        return response


@contextmanager
def plain_servers(count):
    servers = [PlainServer() for _ in range(count)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()
