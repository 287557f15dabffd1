"""The Airflow plugin. Every process of Airflow loads it, tasks included: it imports little until something is asked.

With the timetables it imports `airflow_ml.pipelines`, which is meant: the DAG processor loads plugins before it forks
a process for each file, so that no file pays for importing us.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_ml.pipelines.timetables import DayOverUntil, MidnightUntil
from airflow_ml.ui import notes

PREFIX = "/airflow-ml"

Message = MutableMapping[str, Any]


class Reports:
    """The reports app, imported at the first request: only the API server ever serves one."""

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """ASGI."""
        from airflow_ml.ui.reports import app

        await app(scope, receive, send)


class AirflowMLPlugin(AirflowPlugin):
    """Registered by the entry point group ``airflow.plugins``."""

    name = "airflow_ml"
    # Mutable, as Airflow declares them.
    fastapi_apps: list[Any] = [{"app": Reports(), "url_prefix": PREFIX, "name": "airflow-ml reports"}]  # noqa: RUF012
    listeners: list[Any] = [notes]  # noqa: RUF012
    timetables: list[Any] = [MidnightUntil, DayOverUntil]  # noqa: RUF012
