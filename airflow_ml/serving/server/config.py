"""What the server is told to serve: ``ModelServerConfig``, read and checked.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/config/model_server_config.proto
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ml.serving.protos.messages import ModelServerConfig
from airflow_ml.serving.server.status import invalid


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served.

    Attributes:
        kind: ``latest``, ``all`` or ``specific``.
        latest: How many, for ``latest``.
        specific: Which, for ``specific``.
    """

    kind: str = "latest"
    latest: int = 1
    specific: frozenset[int] = frozenset()

    def aspired(self, names: Iterable[str]) -> dict[int, str]:
        """The versions to serve among the names in a base folder, as version → name.

        Names that are not numbers are not versions, which is what makes staging under another name safe.
        """
        found: dict[int, str] = {}
        for name in sorted(names):
            if name.isascii() and name.isdecimal():
                found[int(name)] = name
        if self.kind == "specific":
            return {version: found[version] for version in sorted(self.specific & found.keys())}
        if self.kind == "latest":
            newest = sorted(found)[-max(self.latest, 1) :]
            return {version: found[version] for version in newest}
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class ServedModel:
    """One model of the config."""

    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def models_of(config: Any) -> dict[str, ServedModel]:
    """The models of a ``ModelServerConfig``.

    Raises:
        StatusError: the config breaks one of TF Serving's rules.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid("Missing custom_model_config_loader in ServerCore Options")
    models: dict[str, ServedModel] = {}
    for entry in config.model_config_list.config:
        if not entry.name or not entry.base_path:
            raise invalid("Invalid ModelConfig: both name and base_path are needed")
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not os.path.isabs(entry.base_path):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
        if entry.model_platform not in ("", "tensorflow"):
            raise invalid(f"Model {entry.name} requests unsupported platform {entry.model_platform}")
        if not entry.model_platform and not entry.model_type:
            raise invalid("Illegal setting neither ModelServerConfig::model_type (deprecated) nor model_platform.")
        models[entry.name] = ServedModel(
            entry.name, entry.base_path, _policy(entry.model_version_policy), dict(entry.version_labels)
        )
    return models


def _policy(policy: Any) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy("all")
    if choice == "specific":
        return VersionPolicy("specific", specific=frozenset(policy.specific.versions))
    return VersionPolicy("latest", latest=policy.latest.num_versions or 1)


def parse(text: str, path: str = "") -> Any:
    """A config file's text as ``ModelServerConfig``.

    Args:
        text: Its content.
        path: Of the file, for the message.

    Raises:
        StatusError: it is not one.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        # TF Serving's message has the path, and TensorFlow's log what is wrong
        raise invalid(
            f"Invalid protobuf file: '{path}': "
            f"Error parsing text-format {ModelServerConfig.DESCRIPTOR.full_name}: {error}"
        ) from error


def single(name: str, base_path: str) -> Any:
    """The config that ``--model_name`` and ``--model_base_path`` stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
    return config
