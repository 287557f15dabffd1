"""MLflow model versions: one a fingerprint, with the lineage as tags, and the aliases that people look at."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_ml.registry.client import alone, clear_errors, client_of
from airflow_ml.registry.tracking import FINGERPRINT, log_artifacts
from airflow_ml.spec import Platform

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"


@clear_errors
def register(
    platform: Platform,
    model_name: str,
    fingerprint: str,
    saved_model: str,
    run_id: str,
    tags: Mapping[str, str],
) -> int:
    """The model version of this fingerprint: made, or found by a retry.

    The fingerprint is a tag of the same database transaction that makes the version, so there is no moment at which a
    killed process leaves a version that its retry cannot find. The other tags are written again by every try.

    Args:
        platform: Says where the registry is.
        model_name: Registered model.
        fingerprint: What the version was made from.
        saved_model: Folder of the SavedModel. It is copied to the run's artifacts, because a tracking server refuses
            versions that lie anywhere else.
        run_id: MLflow run of the training.
        tags: Lineage.

    Returns:
        The version number.
    """
    client = client_of(platform)
    version = find(platform, model_name, fingerprint)
    if version is None:
        folder = f"saved_model-{fingerprint[:12]}"
        log_artifacts(platform, run_id, saved_model, folder)
        source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
        with alone(platform):
            version = find(platform, model_name, fingerprint)
            if version is None:
                _create_model(client, model_name)
                every = {FINGERPRINT: fingerprint, **tags}
                return int(client.create_model_version(model_name, source, run_id, tags=every).version)
    for name, value in tags.items():
        client.set_model_version_tag(model_name, str(version), name, value)
    return version


@clear_errors
def find(platform: Platform, model_name: str, fingerprint: str) -> int | None:
    """The version of this fingerprint, or None."""
    query = f"name = '{model_name}' and tags.`{FINGERPRINT}` = '{fingerprint}'"
    found = client_of(platform).search_model_versions(query)
    return min((int(version.version) for version in found), default=None)


@clear_errors
def set_challenger(platform: Platform, model_name: str, version: int) -> None:
    """Show a version as the one that waits for its release."""
    client_of(platform).set_registered_model_alias(model_name, CHALLENGER, str(version))


@clear_errors
def mirror_champion(platform: Platform, model_name: str, version: int) -> None:
    """Show a version as the champion; it is no longer a challenger."""
    client = client_of(platform)
    aliases = aliases_of(platform, model_name)
    if aliases.get(CHAMPION) != version:
        client.set_registered_model_alias(model_name, CHAMPION, str(version))
    if aliases.get(CHALLENGER) == version:
        client.delete_registered_model_alias(model_name, CHALLENGER)


@clear_errors
def aliases_of(platform: Platform, model_name: str) -> dict[str, int]:
    """Alias to version."""
    return {
        name: int(version) for name, version in client_of(platform).get_registered_model(model_name).aliases.items()
    }


def _create_model(client: "MlflowClient", model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
