"""Who is there: the pods whose agents have proven that they belong to the job, for as long as they are heard."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from airflow_ml.training.agent import HEARTBEAT_S, SILENCE_S
from airflow_ml.training.usage import Meter
from airflow_ml.training.wire import LONGEST, Channel, Message, Stranger, answer
from airflow_ml.training.world import World

log = logging.getLogger("airflow_ml.training")


@dataclass
class Pod:
    """A pod that has said who it is.

    Attributes:
        index: Of the Job.
        address: From which it speaks.
        channel: To its agent.
        ready: Whether its ranks wait for a generation.
        spare: Whether it has warm ranks beside those of this generation.
    """

    index: int
    address: str
    channel: Channel
    ready: bool = False
    spare: bool = False

    async def send(self, message: Message) -> None:
        """Tell its agent something; a pod that does not hear is found by its silence."""
        with contextlib.suppress(ConnectionError):
            await self.channel.send(message)


class Muster:
    """Answers agents, and keeps the roll of their pods.

    Args:
        world: The pods that there can be.
        gpus: Of each of them.
        heard: Called with what a pod's agent says.
        lost: Called with a pod whose agent is gone.

    Attributes:
        pods: That are there, by their index.
        meter: What they take.
    """

    def __init__(
        self, world: World, gpus: int, heard: Callable[[Pod, Message], None], lost: Callable[[Pod], None]
    ) -> None:
        self.pods: dict[int, Pod] = {}
        self.meter = Meter()
        self._world, self._gpus, self._heard, self._lost = world, gpus, heard, lost
        self._changed = asyncio.Event()

    async def open(self) -> asyncio.Server:
        """Begin to answer."""
        return await asyncio.start_server(self._answer, "0.0.0.0", self._world.port, limit=LONGEST)

    async def change(self, seconds: float) -> None:
        """Wait until something has changed, or for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()

    async def tell_all(self, message: Message) -> None:
        """Say something to everybody who is there."""
        for pod in list(self.pods.values()):
            await pod.send(message)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One agent, from its first word to its last."""
        try:
            channel = await answer(reader, writer, self._world.key)
            hello = await asyncio.wait_for(channel.receive(), SILENCE_S)
        except (Stranger, TimeoutError) as error:
            log.warning("refused a connection from %s: %s", writer.get_extra_info("peername"), error)
            writer.close()
            return
        peer = writer.get_extra_info("peername")
        if hello is None or peer is None or hello.get("slots") != self._world.slots:
            writer.close()
            return
        pod = Pod(int(hello["hello"]), str(peer[0]), channel)
        since = asyncio.get_running_loop().time() - float(hello["age_s"])
        self.meter.begin(channel, since, int(hello["cores"]), self._gpus)
        before = self.pods.get(pod.index)
        if before is not None:
            self._strike(before)
        self.pods[pod.index] = pod
        self._changed.set()
        beating = asyncio.create_task(_beat(pod))
        try:
            while (message := await asyncio.wait_for(channel.receive(), SILENCE_S)) is not None:
                if "ready" in message:
                    pod.ready = True
                self._heard(pod, message)
                self._changed.set()
        except (TimeoutError, Stranger) as error:
            log.warning("pod %d: %s", pod.index, error or f"silent for {SILENCE_S:.0f} s")
        finally:
            beating.cancel()
            channel.close()
            self._strike(pod)

    def _strike(self, pod: Pod) -> None:
        """Take a pod off the roll; another one may have its place already."""
        self.meter.end(pod.channel, asyncio.get_running_loop().time())
        if self.pods.get(pod.index) is pod:
            del self.pods[pod.index]
        self._lost(pod)
        self._changed.set()


async def _beat(pod: Pod) -> None:
    while True:
        await pod.send({"beat": 1})
        await asyncio.sleep(HEARTBEAT_S)
