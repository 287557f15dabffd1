"""A model server's config as values: what it says of a model, and the texts that follow from a change.

Each change is text → text, and touches the entry of one model only: whatever fields the others have are kept. A text
that is no config is refused, never repaired.

Source: https://www.tensorflow.org/tfx/serving/serving_config
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_ml.lifecycle.errors import ServingError

EMPTY = "model_config_list {\n}\n"
"""No models. An empty message would print as nothing, which a server takes for "no config"."""

Edit = Callable[[str | None], str]
"""The text before, None where there is none yet, to the text after."""


@dataclass(frozen=True)
class Configured:
    """What the servers are told of a model; empty where they are told nothing.

    Attributes:
        versions: Rising.
        labels: Label → version.
    """

    versions: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)


def configured(text: str | None, model: str, where: str) -> Configured:
    """What a config says of a model.

    Raises:
        ServingError: it is no config.
    """
    entry = _entry(parsed(text, where), model)
    if entry is None:
        return Configured()
    return Configured(tuple(sorted(entry.model_version_policy.specific.versions)), dict(entry.version_labels))


def models(text: str | None, where: str) -> list[str]:
    """The models of a config."""
    return [entry.name for entry in parsed(text, where).model_config_list.config]


def unchanged(where: str) -> Edit:
    """The same config; one that says nothing where there is none."""
    return lambda text: _printed(parsed(text, where))


def with_versions(model: str, versions: Iterable[int], base_path: str, where: str) -> Edit:
    """Exactly these versions of the model; none at all ends its entry.

    A label that would point at nothing is refused: the servers would refuse the whole config.

    Args:
        model: Name.
        versions: Published ones.
        base_path: Their folder, as the servers see it.
        where: The config is, for messages.
    """
    wanted = sorted(set(versions))

    def edit(text: str | None) -> str:
        config = parsed(text, where)
        entry = _entry(config, model)
        if not wanted:
            kept = [each for each in config.model_config_list.config if each.name != model]
            del config.model_config_list.config[:]
            config.model_config_list.config.extend(kept)
            return _printed(config)
        entry = entry if entry is not None else config.model_config_list.config.add(name=model)
        lost = {label: version for label, version in entry.version_labels.items() if version not in wanted}
        if lost:
            raise ServingError(
                f"labels of {model} point to versions that would be unloaded: {lost}",
                where,
                "move or remove the labels first",
            )
        entry.base_path = base_path
        entry.model_platform = "tensorflow"
        entry.model_version_policy.specific.versions[:] = wanted
        return _printed(config)

    return edit


def with_label(model: str, label: str, version: int | None, where: str) -> Edit:
    """The label at a version that is configured, or (None) nowhere."""

    def edit(text: str | None) -> str:
        config = parsed(text, where)
        entry = _entry(config, model)
        if version is None:
            if entry is not None:
                entry.version_labels.pop(label, None)
        elif entry is None or version not in entry.model_version_policy.specific.versions:
            raise ServingError(
                f"version {version} of {model} is not served, so it cannot be {label!r}",
                where,
                "have it loaded first, wait until it is AVAILABLE, then move the label",
            )
        else:
            entry.version_labels[label] = version
        return _printed(config)

    return edit


def parsed(text: str | None, where: str) -> Any:
    """``ModelServerConfig`` of a text.

    Raises:
        ServingError: it is none.
    """
    from google.protobuf import text_format

    from airflow_ml.serving.protos.messages import ModelServerConfig

    try:
        return text_format.Parse(text or "", ModelServerConfig())
    except text_format.ParseError as error:
        raise ServingError(
            f"not a model server config: {error}", where, "repair it by hand; nothing was changed"
        ) from error


def _printed(config: Any) -> str:
    from google.protobuf import text_format

    return str(text_format.MessageToString(config)) if config.model_config_list.config else EMPTY


def _entry(config: Any, model: str) -> Any | None:
    return next((entry for entry in config.model_config_list.config if entry.name == model), None)
