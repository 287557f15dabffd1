"""A version lent to one request: it is not freed before it is given back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from airflow_ml.serving.server.pace import SMALL_BYTES
from airflow_ml.serving.server.servable import Servable

T = TypeVar("T")


class Loan:
    """A version for one request; a context manager gives it back.

    Args:
        servable: The version.
        pool: Its threads.
        back: Gives it back.
    """

    __slots__ = ("_back", "_pool", "servable")

    def __init__(self, servable: Servable, pool: ThreadPoolExecutor, back: Callable[[], None]) -> None:
        self.servable = servable
        self._pool = pool
        self._back = back

    def quick(self, size: int) -> bool:
        """Whether the thread that took a request of `size` bytes may answer it, without holding others up."""
        return self.servable.pace.quick and size <= SMALL_BYTES

    def run(self, job: Callable[[], T]) -> Future[T]:
        """Run a job in the version's own threads, and give the version back when it is done or given up."""
        future = self._pool.submit(job)
        future.add_done_callback(lambda _: self._back())
        return future

    def __enter__(self) -> Servable:
        return self.servable

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._back()
