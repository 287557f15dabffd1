"""Who may write a config now: one holder until a moment, as a value that is kept beside the config.

A lease is taken over only when it has expired, by the clock of whoever wants it. Clocks that differ cannot break
anything: every write is a compare-and-set on what was read, so who was overtaken is refused. The lease keeps writers
from undoing each other's work in between, and says who is at it.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import dataclass

from airflow_ml.lifecycle.errors import ServingError

LEASE_S = 20.0
"""A write takes milliseconds, and one that has to be sent to servers renews its lease: this is how long the config is
shut when its writer was killed."""


@dataclass(frozen=True)
class Lease:
    """Held by somebody until a moment.

    Attributes:
        holder: Host, process, and a part that nobody else has.
        expires: Seconds since 1970.
    """

    holder: str
    expires: float

    def shuts_out(self, holder: str, now: float) -> bool:
        """Whether somebody else has to wait."""
        return self.holder != holder and now < self.expires

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"holder": self.holder, "expires": self.expires})

    @staticmethod
    def from_json(text: str, where: str) -> Lease:
        """The inverse.

        Raises:
            ServingError: It says something else.
        """
        try:
            data = json.loads(text)
            return Lease(str(data["holder"]), float(data["expires"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ServingError(
                f"the lease is damaged: {text[:80]!r}", where, "remove it when nobody is releasing"
            ) from error


def new_holder() -> str:
    """A name for a writer of this process."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
