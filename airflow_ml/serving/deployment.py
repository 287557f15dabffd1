"""A serving base on this machine's disk: the folders and the config file of its servers.

    <base>/models.config            what the server is told to serve; it polls this file
    <base>/<model>/<version>/       SavedModels

Several jobs may release into one base. Each change is read–modify–write by one writer, and each appears by one rename,
so that the server never reads half of anything and a model of somebody else is never touched. What a rollout uses, for
this and any other kind of servers, is `airflow_ml.serving.targets`; this is the way of whoever has just the folder.

Source: https://www.tensorflow.org/tfx/serving/serving_config
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from airflow_ml.lifecycle.errors import ServingError
from airflow_ml.serving.targets import configuration
from airflow_ml.serving.targets.configuration import Configured
from airflow_ml.serving.targets.shelves import publish
from airflow_ml.serving.targets.stores import CONFIG_NAME, FileStore
from airflow_ml.serving.targets.writer import Writer

__all__ = ["CONFIG_NAME", "ModelConfigFile", "publish"]


class ModelConfigFile:
    """``models.config`` of a serving base: which versions of which model are loaded, and their labels.

    TF Serving refuses a label of a version that is not AVAILABLE. So a rollout is two writes with a wait between:
    :meth:`ensure_versions`, :meth:`set_label`. This class refuses what the server would refuse
    for ever.

    Args:
        base: The serving base.
    """

    def __init__(self, base: Path) -> None:
        self.base = base.absolute()
        self._writer = Writer(FileStore(self.base))
        self.path = self.base / CONFIG_NAME

    def create(self) -> Path:
        """Make sure that there is a file, which a server needs to start; an empty one serves nothing."""
        self._writer.change(configuration.unchanged(str(self.path)))
        return self.path

    def models(self) -> list[str]:
        """The models that are served."""
        return configuration.models(self._writer.store.read().text, str(self.path))

    def versions(self, model: str) -> list[int]:
        """The versions that the server is told to load; empty if the model is not served."""
        return list(self._configured(model).versions)

    def labels(self, model: str) -> dict[str, int]:
        """Label → version."""
        return self._configured(model).labels

    def ensure_versions(self, model: str, versions: Iterable[int]) -> None:
        """Serve exactly these versions of ``model``.

        Raises:
            ServingError: a version is not published, or a label points to one that would go.
        """
        wanted = sorted(set(versions))
        for version in wanted:
            if not (self.base / model / str(version)).is_dir():
                raise ServingError(
                    f"version {version} of {model} is not published", str(self.base / model), "publish it first"
                )
        if not wanted:
            raise ServingError(f"no version of {model} given", str(self.path), "use remove() to stop serving the model")
        self._writer.change(configuration.with_versions(model, wanted, str(self.base / model), str(self.path)))

    def set_label(self, model: str, label: str, version: int) -> None:
        """Point ``label`` at a version that is AVAILABLE.

        Raises:
            ServingError: the version is not among those that are served.
        """
        self._writer.change(configuration.with_label(model, label, version, str(self.path)))

    def remove(self, model: str) -> None:
        """Stop serving ``model``; its folders stay. No change if it is not served."""
        self._writer.change(configuration.with_versions(model, (), "", str(self.path)))

    def _configured(self, model: str) -> Configured:
        return configuration.configured(self._writer.store.read().text, model, str(self.path))
