"""Questions about what is served: one look in the worker or in the triggerer, and one decision for both."""

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from airflow_ml.hooks.tf_serving import TFServingHook
from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.spec import Platform
from airflow_ml.spec.base import Frozen


class Look(Frozen):
    """What a look found.

    Attributes:
        status: ``failed`` will not become ``ready`` by waiting.
        text: For people: what is there, or what is missing.
    """

    status: Literal["ready", "waiting", "failed"]
    text: str


class VersionServed(Frozen):
    """Is a version, or a label, AVAILABLE in a model server?

    Attributes:
        conn_id: Connection of type ``tf_serving``.
        model: Its name there.
        version: Registry version, or
        label: any version that has this label.
    """

    kind: Literal["version"] = "version"
    conn_id: str
    model: str
    version: int | None = None
    label: str | None = None

    def look(self) -> Look:
        """Ask the server."""
        try:
            with TFServingHook(self.conn_id).get_conn() as client:
                found = client.status(self.model, self.version, label=self.label)
        except ServingError as error:
            return self._not_yet(error)
        return self.decide([(status.version, status.state, status.error_message) for status in found])

    async def alook(self) -> Look:
        """Ask it without blocking the event loop."""
        try:
            async with await TFServingHook(self.conn_id).aget_conn() as client:
                found = await client.status(self.model, self.version, label=self.label)
        except ServingError as error:
            return self._not_yet(error)
        return self.decide([(status.version, status.state, status.error_message) for status in found])

    def decide(self, found: list[tuple[int, str, str]]) -> Look:
        """What the server's states mean: version, state, and what went wrong, of each version that was asked for."""
        ready = [version for version, state, _ in found if state == "AVAILABLE"]
        if ready:
            return Look(status="ready", text=f"{self.model} version {max(ready)} is available")
        wrong = [f"version {version}: {message}" for version, state, message in found if state == "END" and message]
        if wrong and len(wrong) == len(found):
            return Look(status="failed", text=f"the server could not load {self.model} {'; '.join(wrong)}")
        states = ", ".join(f"version {version} is {state}" for version, state, _ in found) or "nothing"
        return Look(status="waiting", text=f"{self.model}: {states}")

    def _not_yet(self, error: ServingError) -> Look:
        """The server may be starting, and does not know yet what it will load."""
        return Look(status="waiting", text=str(error))


class TrafficReached(Frozen):
    """Does a version have a share of the traffic?

    Attributes:
        platform: Says where the release record is.
        model: Name.
        version: Registry version.
        share: 0 to 1.
    """

    kind: Literal["traffic"] = "traffic"
    platform: Platform
    model: str
    version: int
    share: float = Field(gt=0, le=1)

    def look(self) -> Look:
        """Read the record."""
        from airflow_ml.hooks.releases import ReleaseRecord

        record = ReleaseRecord(self.platform, self.model)
        rollout = record.rollout()
        back = rollout is not None and rollout.version == self.version and rollout.state == "rolled_back"
        return self.decide(record.traffic(self.version), rollout.reason if back and rollout else None)

    async def alook(self) -> Look:
        """In a thread: the base may lie on a network file system that hangs."""
        return await asyncio.to_thread(self.look)

    def decide(self, share: float, rolled_back: str | None = None) -> Look:
        """What the record means.

        Args:
            share: That it has now.
            rolled_back: Why its rollout has ended without it, if it has.
        """
        said = f"{self.model} version {self.version} has {share:.3g} of the traffic"
        if share >= self.share:
            return Look(status="ready", text=said)
        if rolled_back is not None:
            return Look(status="failed", text=f"{said}, and was rolled back: {rolled_back}")
        return Look(status="waiting", text=f"{said}, {self.share:g} is waited for")


Question = Annotated[VersionServed | TrafficReached, Field(discriminator="kind")]

_QUESTION: TypeAdapter[VersionServed | TrafficReached] = TypeAdapter(Question)


def question_of(data: dict[str, Any]) -> VersionServed | TrafficReached:
    """A question from its JSON."""
    return _QUESTION.validate_python(data)


__all__ = ["Look", "Question", "TrafficReached", "VersionServed", "question_of"]
