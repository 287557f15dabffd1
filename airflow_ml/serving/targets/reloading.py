"""Sending a config to servers that poll nothing: the reload RPC, whole, to each replica, by the holder of the lease.

A server keeps nothing of what it is told, and cannot be asked for it. So the config is a record of ours, and whoever
changes one model sends what all models are to be; a replica that was started again is sent it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.errors import ServerUnreachable, ServingTimeout
from airflow_ml.serving.targets.configuration import parsed
from airflow_ml.serving.targets.replicas import Replicas

log = logging.getLogger(__name__)

_SEND_S = 10.0
"""A server answers when new models are loaded, and goes on loading when nobody waits: `wait_available` does. It is
no more than half of a lease, of which that much is left before each."""


class Reloading:
    """Brings a config to all replicas.

    Args:
        replicas: Servers that take the reload RPC.
        where: The record is, for messages.
    """

    def __init__(self, replicas: Replicas, where: str) -> None:
        self._replicas = replicas
        self._where = where

    def require_record(self, text: str | None) -> None:
        """Make sure that there is a record: sending without one would unload the models of others.

        Raises:
            ServingError: There is none.
        """
        if text is None:
            raise ServingError(
                "there is no record of what the servers serve, and a reload unloads all that it leaves out",
                self._where,
                "put the config there with which the servers were started; for servers without models, a file that "
                "says `model_config_list {}`",
            )

    def send(self, before: str | None, text: str, renew: Callable[[str | None], None]) -> None:
        """Send the config; if a server refuses it, the one before is the record again, and is sent to all.

        A replica that does not answer is left out: it is sent the record when somebody waits for it.

        Args:
            before: The record before.
            text: The record now.
            renew: Renews the lease, and replaces the record if it is given one.

        Raises:
            ServingError: Servers refuse it; each is named, with what it said.
            LeaseLost: Another writer took over; nothing was sent after that.
        """
        refused = self._sent(text, renew)
        if not refused:
            return
        if before is not None and before != text:
            renew(before)
            self._sent(before, renew)
        raise ServingError(
            f"servers refuse the config: {'; '.join(refused)}",
            self._where,
            "look at what it says of these models; the one before holds again",
        )

    def _sent(self, text: str, renew: Callable[[str | None], None]) -> list[str]:
        config = parsed(text, self._where)
        refused = []
        for address in self._replicas.addresses:
            renew(None)
            try:
                self._replicas.reload(address, config, _SEND_S)
            except (ServerUnreachable, ServingTimeout) as error:
                log.warning("%s does not answer to the new config: %s", address, error.what)
            except ServingError as error:
                refused.append(f"{address}: {error.what}")
        return refused
