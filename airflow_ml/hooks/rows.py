"""Rows of features by name as the columns of a model's signature, by its declaration alone: no server is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_ml.lifecycle.errors import SpecError
from airflow_ml.lifecycle.preprocessing import MISSING_INT
from airflow_ml.spec import Model


def columns_of(model: Model, rows: Sequence[Mapping[str, Any]], entity: bool = False) -> dict[str, Any]:
    """Rows as columns: a number of the model is float32; a category text, or a whole number where all of them are.

    Args:
        model: What a row has to have.
        rows: Features by name.
        entity: Whether a row has to have the entity, too.

    Raises:
        SpecError: A feature is missing, unknown, or of another type; it says which row.
    """
    import numpy as np

    numeric, categorical = model.features.numeric, model.features.categorical
    wanted = [*numeric, *categorical, *([model.features.entity] if entity else [])]
    for place, row in enumerate(rows):
        missing = sorted(set(wanted) - set(row))
        unknown = sorted(set(row) - set(wanted) - {model.features.entity})
        if missing or unknown:
            what = f"has no {', '.join(missing)}" if missing else f"has {', '.join(unknown)}, unknown to the model"
            remedy = f"a row has {', '.join(wanted)}; null where one is not known"
            raise SpecError(f"row {place} {what}", "rows", remedy)
    columns: dict[str, Any] = {}
    for name in wanted:
        values = [row[name] for row in rows]
        try:
            if name in numeric:
                columns[name] = np.array([np.nan if value is None else float(value) for value in values], np.float32)
            elif name in categorical and all(value is None or type(value) is int for value in values):
                columns[name] = np.array([MISSING_INT if value is None else value for value in values], np.int64)
            else:
                columns[name] = np.array(["" if value is None else str(value) for value in values], object)
        except (TypeError, ValueError, OverflowError) as error:
            remedy = f"{name} is a {'number' if name in numeric else 'category'}"
            raise SpecError(f"{name}: {error}", "rows", remedy) from error
    return columns
