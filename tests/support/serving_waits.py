"""Waiting for what one model server has made of its config."""

import time
from collections.abc import Callable

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client
from airflow_ml.serving.errors import ModelNotServed, RequestRefused, ServerUnreachable, ServingTimeout

_POLL = 0.2


def wait_available(client: Client, model: str, version: int, timeout: float) -> None:
    """Wait until the server serves a version.

    Args:
        client: Of the server.
        model: Name.
        version: Which.
        timeout: The longest wait, in seconds.

    Raises:
        ServingError: the server could not load it.
        ServingTimeout: it is not available in time; the last state is in the message.
    """

    def available() -> str | None:
        (status,) = client.status(model, version)
        if status.failed:
            raise ServingError(
                f"the server could not load it: {status.error_code} {status.error_message}",
                client.where(model, version),
                "export the model again; the version before it stays served",
            )
        return None if status.state == "AVAILABLE" else status.state

    _wait(available, timeout, client.where(model, version))


def wait_label(client: Client, model: str, label: str, version: int, timeout: float) -> None:
    """Wait until requests for ``label`` are answered by ``version``.

    Raises:
        ServingTimeout: they are not in time.
    """

    def moved() -> str | None:
        answering = client.metadata(model, label=label).version
        return None if answering == version else f"label {label!r} is still version {answering}"

    _wait(moved, timeout, client.where(model, version))


def _wait(check: Callable[[], str | None], timeout: float, where: str) -> None:
    """Call ``check`` until it has nothing to complain of. A server that is still reading its config is no failure."""
    end = time.monotonic() + timeout
    while True:
        try:
            complaint = check()
        except (ModelNotServed, RequestRefused, ServerUnreachable, ServingTimeout) as error:
            complaint = error.what
        if complaint is None:
            return
        if time.monotonic() >= end:
            raise ServingTimeout(
                f"not there after {timeout:g} s: {complaint}", where, "look at the server's log, or wait longer"
            )
        time.sleep(_POLL)
