"""The coordinator: N pods with their ranks, which train together. It lives in pod 0, or in a pod of its own.

A *generation* is one start of all ranks. When a pod is lost (evicted, its node gone, cut off), its peers cannot go on:
the generation is ended, and the next one begins from the last checkpoint: when every pod is there again, or, for an
elastic training, with those that are left. A pod that comes later joins at the next checkpoint. A rank that hangs is
ended like one that is lost, and all go on from the last checkpoint; when the same step hangs again, that is the error.

A rank that fails by itself, in a pod that is well, ends the training with its error, as on one machine. An elastic
training goes on from the last checkpoint, unless the same error comes again at the same step; and one that was killed
is started anew, unless that happens thrice without a checkpoint in between.

Horovod is told where its ranks are and nothing else: no ssh, no MPI, no rights in the cluster.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping

from airflow_ml.lifecycle.errors import TrainingFailed
from airflow_ml.training.events import Event, OnEvent
from airflow_ml.training.generations import Generation
from airflow_ml.training.job import TrainingJob
from airflow_ml.training.launch import rendezvous, slot_environment
from airflow_ml.training.muster import Muster, Pod
from airflow_ml.training.ranks import PARENT
from airflow_ml.training.usage import EVERY_S
from airflow_ml.training.watchdog import Watchdog
from airflow_ml.training.wire import Message
from airflow_ml.training.world import World

log = logging.getLogger("airflow_ml.training")

_REMIND_S = 30.0
_RESTARTS = 100
"""Generations before the training fails: more than the Job replaces pods for."""
_IN_VAIN = 3
"""Generations in a row without a checkpoint before the training fails."""
_FIRST_GRACE_S = 10.0
"""How long an elastic training waits for the pods that are missing when enough have come."""
_NEXT_GRACE_S = 1.0


def launch_on_pods(job: TrainingJob, world: World, on_event: OnEvent) -> Event:
    """Train in all pods, and wait for the end.

    Args:
        job: What is to be trained; its paths are the same in every pod.
        world: The pods.
        on_event: Called for each event of the ranks.

    Returns:
        The ``finished`` event, as `airflow_ml.training.launch.launch` does.

    Raises:
        AirflowMLError: A rank failed.
    """
    return asyncio.run(Coordinator(job, world, on_event).train())


class Coordinator:
    """Starts generations of a training until one comes to an end.

    Args:
        job: What is to be trained.
        world: The pods.
        on_event: Called for each event of the ranks.
    """

    def __init__(self, job: TrainingJob, world: World, on_event: OnEvent) -> None:
        self.job, self.world, self.on_event = job, world, on_event
        self.generation: Generation | None = None
        self.told: list[Event] = []
        self.muster = Muster(world, world.slots if job.gpus_per_worker else 0, self._heard, self._lost)

    async def train(self) -> Event:
        """Serve the agents until the training has ended."""
        server = await self.muster.open()
        agent = None if self.world.coordinates_only else await self._own_agent()
        metering = asyncio.create_task(self._tell_usage())
        code = 1
        try:
            finished = await self._generations(agent)
            code = 0
            return finished
        finally:
            metering.cancel()
            await self.muster.tell_all({"end": code})
            server.close()
            if agent is not None:
                with contextlib.suppress(ProcessLookupError):
                    agent.kill()
                await agent.wait()
            await asyncio.to_thread(self.on_event, self.muster.meter.event(asyncio.get_running_loop().time()))

    async def _tell_usage(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.told.append(self.muster.meter.event(asyncio.get_running_loop().time()))

    async def _own_agent(self) -> asyncio.subprocess.Process:
        """The agent of this pod: a process like that of the others."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "airflow_ml.training.agent",
            f"127.0.0.1:{self.world.port}",
            "0",
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, PARENT: str(os.getpid())},
        )

    async def _generations(self, agent: asyncio.subprocess.Process | None) -> Event:
        """One generation after the other, until one comes to an end."""
        in_vain = 0
        troubles: set[tuple[object, ...]] = set()
        for number in range(1, _RESTARTS + 1):
            pods = await self._enough(agent, _FIRST_GRACE_S if number == 1 else _NEXT_GRACE_S)
            if self.world.elastic:
                log.info("generation %d: %d of %d pods", number, len(pods), self.world.pods)
            generation = await self._generation(number, pods)
            again = generation.lost is not None or generation.yielded or generation.hung is not None
            trouble = generation.trouble if generation.lost is None else None
            if self.world.elastic:
                again = again or generation.killed or trouble is not None
            in_vain = 0 if generation.checkpoints or generation.yielded else in_vain + 1
            if not again or trouble in troubles or (generation.killed and in_vain == _IN_VAIN):
                return generation.result()
            if trouble is not None:
                troubles.add(trouble)
                self._warn(generation)
            elif generation.lost is not None:
                log.warning("pod %d is gone: the ranks stop, and go on from the last checkpoint", generation.lost.index)
            elif not generation.yielded:
                log.warning("a rank was killed: all of them go on from the last checkpoint")
        raise TrainingFailed(
            f"the ranks were started {_RESTARTS} times",
            where="the cluster",
            remedy="look at its nodes; a retry resumes",
        )

    def _warn(self, generation: Generation) -> None:
        """Say what went wrong: it is the error only if it happens again."""
        try:
            generation.result()
        except TrainingFailed as error:
            log.warning("%s\nAll ranks go on from the last checkpoint; the same at the same step ends them", error.what)

    async def _enough(self, agent: asyncio.subprocess.Process | None, grace_s: float) -> dict[int, Pod]:
        """Wait for all pods, or for some time after enough have come."""
        loop = asyncio.get_running_loop()
        began = reminded = changed = loop.time()
        known: set[int] = set()
        while True:
            ready = {index: pod for index, pod in sorted(self.muster.pods.items()) if pod.ready}
            now = loop.time()
            if set(ready) != known:
                known, changed = set(ready), now
            # Those that are there and not ready yet are worth waiting for.
            patience_s = grace_s if len(ready) == len(self.muster.pods) else _FIRST_GRACE_S
            if self.world.slots * len(ready) >= self.job.workers and len(ready) == len(self.muster.pods):
                # As many as were asked for: more of them join later.
                patience_s = _NEXT_GRACE_S
            if len(ready) == self.world.pods or (len(ready) >= self.world.fewest and now - changed >= patience_s):
                return ready
            if agent is not None and agent.returncode is not None:
                raise TrainingFailed(
                    f"the agent of pod 0 ended with exit code {agent.returncode}", remedy="read the log of pod 0"
                )
            if now - reminded > _REMIND_S:
                reminded = now
                missing = ", ".join(str(index) for index in range(self.world.pods) if index not in ready)
                log.info("waiting for pods %s since %.0f s", missing, now - began)
            await self.muster.change(0.2)

    async def _generation(self, number: int, pods: Mapping[int, Pod]) -> Generation:
        """Start all ranks, and wait until they have ended, or one of their pods is lost."""
        loop = asyncio.get_running_loop()
        hosts = ",".join(f"pod-{index}:{self.world.slots}" for index in pods)
        # Its ranks come from where its agent, which has proven who it is, came from.
        known = {self.world.address, *(pod.address for pod in pods.values())}
        with rendezvous(hosts, len(pods) * self.world.slots, "0.0.0.0", known.__contains__) as (port, slots):
            by_pod: dict[int, list[dict[str, str]]] = {index: [] for index in pods}
            ranks: dict[int, Pod] = {}
            for slot in slots:
                index = int(str(slot.hostname).removeprefix("pod-"))
                ranks[int(slot.rank)] = pods[index]
                by_pod[index].append({**self._environment(port), **slot_environment(slot)})
            watchdog = Watchdog(len(ranks), self.job.step_timeout_s, loop.time())
            generation = self.generation = Generation(number, dict(sorted(ranks.items())), watchdog)
            job = self.job.model_dump_json()
            for index, pod in pods.items():
                pod.ready = pod.spare = False
                await pod.send({"start": number, "job": job, "environments": by_pod[index]})
            spare = False
            try:
                while not generation.ended(loop.time()):
                    if not spare and all(pod.spare for pod in pods.values()):
                        spare = True
                        log.info("generation %d: another start would be a warm one", number)
                    if spare and not generation.asked and any(pod.ready for pod in self.muster.pods.values()):
                        # Somebody has come: room is made for it at the next checkpoint, when that holds up nobody.
                        generation.asked = True
                        for pod in pods.values():
                            await pod.send({"yield": number})
                    await self.muster.change(0.2)
                    await self._pass_on()
            finally:
                self.generation = None
                # After a good end the agents are told so by `train`.
                if generation.finished is None:
                    for pod in pods.values():
                        await pod.send({"stop": number})
        await self._pass_on()
        return generation

    async def _pass_on(self) -> None:
        """Hand events on, in their order: in a thread, because whoever takes them may write over a network."""
        told, self.told = self.told, []
        for event in told:
            await asyncio.to_thread(self.on_event, event)

    def _environment(self, port: int) -> dict[str, str]:
        environment = {
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": self.world.address,
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
            # A pod that is gone is noticed by its silence, long before.
            "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
            **self.job.tuning,
        }
        return environment if self.job.gpus_per_worker else {**environment, "CUDA_VISIBLE_DEVICES": ""}

    def _heard(self, pod: Pod, message: Message) -> None:
        generation = self.generation
        if generation is None or message.get("generation") != generation.number:
            return
        if "spare" in message:
            pod.spare = True
            return
        event = generation.take(message, asyncio.get_running_loop().time())
        if event is not None:
            self.told.append(event)

    def _lost(self, pod: Pod) -> None:
        if self.generation is not None:
            self.generation.lose(pod)
