"""Delta's own vacuum, without what it would take from us: pinned versions, and the log, which is their lineage."""

from collections.abc import Collection
from pathlib import Path

from airflow_ml.lake.table import LakeTable
from airflow_ml.lifecycle.errors import BaseError


def vacuum(table: LakeTable, pinned: Collection[int], days: int, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove files that no version needs: of partitions that were replaced, and of attempts that died.

    Younger files stay: a stage may be writing them, or a reader of an older version be reading them.

    Args:
        table: One that exists.
        pinned: Versions whose files stay; those of a table that was here before are none of it.
        days: Age of what goes.
        dry_run: Only look.

    Returns:
        What goes, with its bytes.

    Raises:
        BaseError: The table cannot be read, or not be written.
    """
    from deltalake import DeltaTable, PostCommitHookProperties
    from deltalake.exceptions import DeltaError

    delta = DeltaTable(str(table.path))

    def run(dry: bool) -> list[str]:
        return delta.vacuum(
            24 * days,
            dry_run=dry,
            enforce_retention_duration=False,
            full=True,
            keep_versions=sorted(version for version in pinned if version <= delta.version()),
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False),
        )

    try:
        found = [table.path / name for name in run(True)]
        sizes = [(path, path.stat().st_size) for path in found if path.exists()]
        if not dry_run and sizes:
            run(False)
    except (DeltaError, OSError) as error:
        raise BaseError(
            f"cannot be swept: {error}", where=str(table.path), remedy="make the base writable, then do it again"
        ) from error
    if not dry_run:
        for path, _ in sizes:
            _remove_empty(path.parent, table.path)
    return sizes


def _remove_empty(folder: Path, stop: Path) -> None:
    while folder != stop:
        try:
            folder.rmdir()
        except OSError:  # not empty, or gone
            return
        folder = folder.parent
