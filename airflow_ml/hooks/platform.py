"""The platform as Airflow knows it: the ``[airflow_ml]`` section of its configuration, or a connection."""

import os
from functools import cached_property
from typing import Any, ClassVar

from airflow.sdk import BaseHook, conf

from airflow_ml.compute import Compute, open_compute
from airflow_ml.compute.platform import SETTINGS, load_platform, platform_from
from airflow_ml.hooks.kubernetes import cluster
from airflow_ml.hooks.tf_serving import handed
from airflow_ml.lifecycle.errors import AirflowMLError, SpecError
from airflow_ml.spec import ConfigMap, Platform

SECTION = "airflow_ml"

_RELEASING = ("release", "rollout")
"""Stages that change what model servers serve."""


def configured() -> dict[str, str]:
    """What the configuration says, by name of setting."""
    names = ("conn_id", "platform", *SETTINGS)
    return {name: value for name in names if (value := conf.get(SECTION, name, fallback=None))}


class PlatformHook(BaseHook):
    """Finds the platform.

    In this order: the connection that is named, the connection of ``[airflow_ml] conn_id``, the settings of
    ``[airflow_ml]``, the ``AIRFLOW_ML_*`` variables that the command line reads.

    Args:
        airflow_ml_conn_id: A connection of type ``airflow_ml``; its extras have the names of the settings.
        platform: A platform that was given in code; nothing is looked up then.
    """

    conn_name_attr: ClassVar[str] = "airflow_ml_conn_id"
    default_conn_name: ClassVar[str] = "airflow_ml_default"
    conn_type: ClassVar[str] = "airflow_ml"
    hook_name: ClassVar[str] = "airflow-ml platform"

    def __init__(self, airflow_ml_conn_id: str | None = None, platform: Platform | None = None) -> None:
        super().__init__()
        self.conn_id = airflow_ml_conn_id
        self._given = platform

    @cached_property
    def platform(self) -> Platform:
        """The platform.

        Raises:
            SpecError: The settings make none.
        """
        if self._given is not None:
            return self._given
        settings: dict[str, Any] = configured()
        conn_id = self.conn_id or settings.pop("conn_id", None)
        if conn_id:
            return platform_from(self.get_connection(conn_id).extra_dejson, where=f"connection {conn_id}")
        if settings:
            return platform_from(settings, where=f"[{SECTION}] of Airflow's configuration")
        return load_platform(os.environ)

    def compute(self, stage: str, kind: str | None = None) -> Compute:
        """The compute that a stage runs on.

        Args:
            stage: Its name.
            kind: Of the compute, where the task asks for one.

        Raises:
            SpecError: The platform declares none of this kind, or its connection leads nowhere.
        """
        try:
            spec = self.platform.compute_for(stage, kind)
        except ValueError as error:
            raise SpecError(
                str(error), where=f"stage {stage}", remedy="add one to `computes` of the platform"
            ) from error
        return open_compute(spec, cluster)

    def secrets(self, stage: str = "") -> dict[str, str]:
        """Environment variables of a job: passwords of the connections that the platform names.

        Args:
            stage: That the job runs; those that release get the connections of the serving target, too.

        Raises:
            SpecError: A connection has no password.
        """
        found: dict[str, str] = {}
        for variable, conn_id in self.platform.connections.items():
            password = self.get_connection(conn_id).password
            if password is None:
                raise SpecError(
                    "the connection has no password",
                    where=f"connection {conn_id}",
                    remedy=f"set it: {variable} takes it",
                )
            found[variable] = password
        if stage in _RELEASING:
            serving = self.platform.serving
            cluster_id = serving.config.conn_id if isinstance(serving.config, ConfigMap) else None
            for conn_id in filter(None, (serving.conn_id, cluster_id)):
                found |= handed(self.get_connection(conn_id), conn_id).to_environment()
        return found

    def test_connection(self) -> tuple[bool, str]:
        """Whether the base can be written by this process, which is the API server's."""
        try:
            platform = self.platform
        except AirflowMLError as error:
            return False, str(error)
        folder = platform.base
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            return False, f"{folder} is not writable"
        made = "" if folder == platform.base else " (it will be made by the first stage)"
        return True, f"base {platform.base}{made}"
