"""The servers behind one config: each is asked, and what it lacks is told with its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any, Self

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.client import Client, connect
from airflow_ml.serving.errors import ModelNotServed, RequestRefused, ServerUnreachable, ServingTimeout
from airflow_ml.serving.security import Security

_LOOK_S = 2.0
"""For one question, so that a replica whose machine is gone holds nobody up."""

_MOST_AT_ONCE = 16

_NOBODY = "airflow-ml-nobody"
"""A model that no server has: it says so, and with that, that it is there."""


@dataclass(frozen=True)
class Lag:
    """What one replica lacks.

    Attributes:
        replica: Its address.
        says: What it answered, or that it did not.
        silent: It does not answer.
        hopeless: It gave up loading the version.
    """

    replica: str
    says: str
    silent: bool = False
    hopeless: bool = False


Check = Callable[[Client], str | None]
"""Asks one replica; says what it lacks."""


class Replicas:
    """Servers that are to serve the same. A context manager.

    Args:
        addresses: ``grpc://host:port`` of each, or what finds them: it is called before each look, because servers of
            Kubernetes come and go.
        security: Certificates and token, the same for all.

    Raises:
        ServingError: They cannot be found, or the certificates cannot be used.
    """

    def __init__(
        self, addresses: Sequence[str] | Callable[[], Sequence[str]], security: Security | None = None
    ) -> None:
        self._find = addresses if callable(addresses) else lambda: addresses
        self._security = security or Security()
        self._clients: dict[str, Client] = {}
        self._lock = Lock()
        self._follow(self._find())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of those that there are now; of those that there were, while nobody can tell."""
        with suppress(ServingError):
            self._follow(self._find())
        return tuple(self._clients)

    def connect(self, address: str, deadline: float) -> Client:
        """A client of one of them, for the caller to close.

        Args:
            address: One of `addresses`.
            deadline: Of a call, in seconds.
        """
        return connect(address, deadline, self._security)

    def silent(self) -> tuple[Lag, ...]:
        """Those that do not answer."""
        return self._ask(_answers)

    def without(self, model: str, version: int) -> tuple[Lag, ...]:
        """Those on which a version is not AVAILABLE."""
        return self._ask(lambda client: _not_available(client, model, version))

    def not_labelled(self, model: str, label: str, version: int | None) -> tuple[Lag, ...]:
        """Those on which a label is not at a version, or (None) still there."""
        return self._ask(lambda client: _elsewhere(client, model, label, version))

    def reload(self, address: str, config: Any, deadline: float) -> None:
        """Replace the whole config of one of them; see `Client.reload`."""
        self._clients[address].reload(config, deadline)

    def close(self) -> None:
        """Let the connections go."""
        for client in self._clients.values():
            client.close()

    def _follow(self, addresses: Sequence[str]) -> None:
        with self._lock:
            known = self._clients
            self._clients = {each: known.get(each) or self.connect(each, _LOOK_S) for each in addresses}
            for address in known.keys() - self._clients.keys():
                known[address].close()

    def _ask(self, check: Check) -> tuple[Lag, ...]:
        clients = [self._clients[address] for address in self.addresses]
        with ThreadPoolExecutor(min(len(clients), _MOST_AT_ONCE)) as pool:
            found = pool.map(lambda client: _lag(client, check), clients)
            return tuple(lag for lag in found if lag is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _GaveUp(Exception):
    pass


def _lag(client: Client, check: Check) -> Lag | None:
    try:
        says = check(client)
    except _GaveUp as error:
        return Lag(client.address, str(error), hopeless=True)
    except (ServerUnreachable, ServingTimeout) as error:
        return Lag(client.address, f"it does not answer: {error.what}", silent=True)
    except ServingError as error:
        return Lag(client.address, error.what)
    return None if says is None else Lag(client.address, says)


def _answers(client: Client) -> str | None:
    with suppress(ModelNotServed):
        client.status(_NOBODY)
    return None


def _not_available(client: Client, model: str, version: int) -> str | None:
    (status,) = client.status(model, version)
    if status.failed:
        raise _GaveUp(f"it could not load it: {status.error_code} {status.error_message}")
    return None if status.state == "AVAILABLE" else f"it is {status.state} there"


def _elsewhere(client: Client, model: str, label: str, version: int | None) -> str | None:
    try:
        answering = client.metadata(model, label=label).version
    except (ModelNotServed, RequestRefused) as error:
        return None if version is None else error.what
    return None if answering == version else f"label {label!r} is still at version {answering}"
