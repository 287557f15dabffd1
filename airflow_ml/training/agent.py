"""The agent of a pod: runs its ranks for the coordinator, in whatever pod that lives, and tells how they are.

    python -m airflow_ml.training.agent ADDRESS INDEX

It keeps a warm rank for each slot, starts them when it is told to, ends them when it is told to or when the coordinator
is gone, and looks for the coordinator anew: the pod that it lived in may be replaced.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from airflow_ml.lifecycle.protocol import BROKEN, GAVE_UP
from airflow_ml.training.ranks import PARENT, STOP
from airflow_ml.training.warm_ranks import Rank
from airflow_ml.training.wire import LONGEST, Channel, Message, Stranger, ask
from airflow_ml.training.world import World, cores

HEARTBEAT_S = 1.0
SILENCE_S = 6.0
"""Without a heartbeat for so long, the other side is taken for dead."""
_RETRY_S = 0.25
_BEGUN_S = 5.0
"""How long ranks have their cores for themselves: what comes after them imports for as long."""
PATIENCE_S = 600.0
"""An agent that nobody has answered for so long gives up."""


class Agent:
    """The agent of one pod.

    Args:
        world: What the pod knows of the job.
        address: ``host:port`` of the coordinator.
        index: Of this pod.
    """

    def __init__(self, world: World, address: str, index: int) -> None:
        self.world = world
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.index = index
        self.folder = Path(tempfile.mkdtemp(prefix="airflow-ml-"))
        self.ranks: list[Rank] = []
        self.spare: list[Rank] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.since = time.monotonic()

    async def run(self) -> int:
        """Serve until the coordinator says that it is over; returns the exit code."""
        await self._warm_up()
        loop = asyncio.get_running_loop()
        last_heard = loop.time()
        try:
            while loop.time() - last_heard < PATIENCE_S:
                with contextlib.suppress(OSError, Stranger):
                    channel = await self._connect()
                    code = await self._serve(channel)
                    last_heard = loop.time()
                    if code is not None:
                        return code
                    # What was before is in the books of the coordinator that is gone.
                    self.since = time.monotonic()
                    print("INFO the coordinator is gone; waiting for it", flush=True)
                    await self._warm_up()
                # Whoever would say so is gone, or never came: the request had been answered before.
                code = self.world.answered
                if code is not None:
                    return code
                await asyncio.sleep(_RETRY_S)
            print(f"ERROR no coordinator at {self.host}:{self.port} for {PATIENCE_S:.0f} s", flush=True)
            return GAVE_UP
        finally:
            await _end(self.ranks + self.spare)

    async def _connect(self) -> Channel:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port, limit=LONGEST), SILENCE_S)
        try:
            channel = await ask(reader, writer, self.world.key)
            about = {"slots": self.world.slots, "cores": cores()}
            await channel.send({"hello": self.index, "age_s": time.monotonic() - self.since, **about})
        except BaseException:
            writer.close()
            raise
        return channel

    async def _serve(self, channel: Channel) -> int | None:
        """Do what the coordinator says; None when it is gone."""
        beating = asyncio.create_task(_beat(channel))
        self._spawn(self._tell_ready(channel))
        try:
            while True:
                try:
                    message = await asyncio.wait_for(channel.receive(), SILENCE_S)
                except TimeoutError:
                    return None
                if message is None:
                    return None
                if "start" in message:
                    await self._start(channel, message)
                elif "yield" in message:
                    self._stop_file(message["yield"]).touch()
                elif "stop" in message:
                    await self._warm_up()
                    self._spawn(self._tell_ready(channel))
                elif "end" in message:
                    return int(message["end"])
        finally:
            beating.cancel()
            channel.close()

    async def _start(self, channel: Channel, message: Message) -> None:
        job = self.folder / "job.json"
        job.write_text(message["job"], encoding="utf-8")
        generation = message["start"]
        ours = {"HOROVOD_GLOO_IFACE": self.world.interface, **self.world.nccl}
        if self.world.elastic:
            ours[STOP] = str(self._stop_file(generation))
        for rank, environment in zip(self.ranks, message["environments"], strict=True):
            rank.tell({**environment, **ours}, job)
            self._spawn(self._follow(channel, generation, rank, int(environment["HOROVOD_RANK"])))
        if self.world.elastic:
            self._spawn(self._warm_spares(channel, generation, self.ranks))

    async def _follow(self, channel: Channel, generation: int, rank: Rank, number: int) -> None:
        """Pass on a rank's events, and how it ended, in this order."""
        with contextlib.suppress(ConnectionError):
            async for told in rank.outcome():
                if isinstance(told, int):
                    ending = {"rank": number, "code": told, "tail": "\n".join(rank.tail)}
                    await channel.send({"generation": generation, **ending})
                else:
                    await channel.send({"generation": generation, "event": json.loads(told)})

    async def _tell_ready(self, channel: Channel) -> None:
        """Say that the ranks are warm; the pod ends when one of them cannot be."""
        for rank in self.ranks:
            if not await rank.is_warm():
                print(f"ERROR a rank ended with exit code {rank.process.returncode} before it was told what to do")
                sys.stdout.flush()
                os._exit(BROKEN)
        with contextlib.suppress(ConnectionError):
            await channel.send({"ready": self.index})

    async def _warm_up(self) -> None:
        """Ranks that have done nothing yet, instead of those that there are."""
        used, self.ranks, self.spare = self.ranks, self.spare, []
        await _end(used)
        missing = self.world.slots - len(self.ranks)
        self.ranks += [await Rank.warm(self.world) for _ in range(missing)]

    async def _warm_spares(self, channel: Channel, generation: int, begun: list[Rank]) -> None:
        """What the next generation begins with is there before it is needed, and holds up nothing of this one."""
        await asyncio.sleep(_BEGUN_S)
        if self.ranks is not begun:
            return
        if not self.spare:
            self.spare = [await Rank.warm(self.world) for _ in begun]
        for rank in self.spare:
            # One that cannot be is found when it is needed.
            await rank.is_warm()
        with contextlib.suppress(ConnectionError):
            await channel.send({"generation": generation, "spare": self.index})

    def _stop_file(self, generation: int) -> Path:
        return self.folder / f"stop-{generation}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _end(ranks: list[Rank]) -> None:
    for rank in ranks:
        await rank.end()


async def _beat(channel: Channel) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await channel.send({"beat": 1})
            await asyncio.sleep(HEARTBEAT_S)


def main(address: str, index: int) -> int:
    """Run the agent of this pod; returns the pod's exit code."""
    world = World.from_environment(os.environ)
    if world is None:
        raise RuntimeError("this is no pod of a training: AIRFLOW_ML_PODS is not set")
    return asyncio.run(Agent(world, address, index).run())


if __name__ == "__main__":
    # A child of pod 0 when it is the agent there: it goes with its parent.
    if PARENT in os.environ:
        from airflow_ml.training.ranks import die_with_launcher

        die_with_launcher()
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
