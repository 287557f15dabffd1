"""``python -m airflow_ml.serving.server``: run the stand-in until SIGTERM."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from airflow_ml.serving.server import flags as command_line
from airflow_ml.serving.server.flags import Flags
from airflow_ml.serving.stopping import Stop

log = logging.getLogger("airflow_ml.serving.server")

#: Time for requests in flight when the server is told to stop, in seconds.
GRACE = 5.0


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after a clean stop; 1 if the server could not start, with the reason on stderr, as TF Serving does it.
    """
    flags = command_line.parse(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    stop = Stop.on_signals()

    from airflow_ml.serving.server import rest_api
    from airflow_ml.serving.server.core import Core
    from airflow_ml.serving.server.grpc_api import GrpcServer
    from airflow_ml.serving.server.options import check_batching
    from airflow_ml.serving.server.status import of_exception

    for name in command_line.unheeded(argv):
        log.warning("--%s is not heeded by this stand-in", name)
    core = Core(flags)
    rest, rest_port = None, 0
    try:
        check_batching(flags)
        _start(core, flags, stop)
        if stop.is_set():
            core.close()
            return 0
        grpc_server = GrpcServer(core, flags)
        if flags.rest_api_port >= 0:
            rest, rest_port = rest_api.start(core, flags)
    except Exception as error:
        status = of_exception(error)
        print(f"Failed to start server. Error: {status.code.name}: {status.message}", file=sys.stderr, flush=True)
        core.close()
        return 1
    where = f"grpc {flags.host}:{grpc_server.port}" + (f" rest {flags.host}:{rest_port}" if rest else "")
    print(f"airflow-ml model server (stand-in for tensorflow_model_server) ready: {where}", flush=True)
    _poll_config(core, flags, stop)
    log.info("stopping")
    if rest is not None:
        rest.shutdown()
    grpc_server.stop(GRACE)
    core.close()
    return 0


def _start(core: Any, flags: Flags, stop: Stop) -> None:
    """Load the first config. As with TF Serving, nobody is listened to before its models are there."""
    failed: list[BaseException] = []

    def load() -> None:
        try:
            core.reload(_read_config(flags))
        except BaseException as error:
            failed.append(error)

    core.start_polling()
    loading = threading.Thread(target=load, daemon=True)  # so that a signal gets through while a model loads
    loading.start()
    while loading.is_alive() and not stop.is_set():
        loading.join(0.1)
    if failed:
        raise failed[0]


def _read_config(flags: Flags) -> Any:
    from airflow_ml.serving.server import config
    from airflow_ml.serving.server.options import read_text

    if not flags.model_config_file:
        return config.single(flags.model_name, flags.model_base_path)
    return config.parse(read_text(flags.model_config_file), flags.model_config_file)


def _poll_config(core: Any, flags: Flags, stop: Stop) -> None:
    """Read the config file again and again until the server stops; a broken one leaves the old config."""
    from airflow_ml.serving.server.core import NotAvailable

    if not flags.model_config_file or flags.model_config_file_poll_wait_seconds <= 0:
        stop.wait()
        return
    said = ""
    while not stop.wait(flags.model_config_file_poll_wait_seconds):
        try:
            core.reload(_read_config(flags), timeout=60)
            said = ""
        except NotAvailable as error:  # which is said once: these models are not new any more
            log.error("%s is in force, but %s", flags.model_config_file, error)
        except Exception as error:
            if str(error) != said:  # once, not every second
                said = str(error)
                log.error("keeping the old config; %s is refused: %s", flags.model_config_file, said)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not through the interpreter's end, which would wait for a model that is still loading
