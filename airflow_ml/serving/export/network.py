"""A network as this package calls it: two tensors in, one logit a row out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ml.lifecycle.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import torch


def arguments(module: torch.nn.Module, categorical: Any, numeric: Any) -> tuple[Any, ...]:
    """The arguments of ``forward`` in the form that it declares.

    Two parameters are ``forward(categorical, numeric)``; one is ``forward(inputs)`` with a dict of the two.
    """
    required = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) == 1:
        return ({"categorical": categorical, "numeric": numeric},)
    return (categorical, numeric)


def torch_probability(
    module: torch.nn.Module, preprocessing: Preprocessing, columns: Mapping[str, np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """What the network itself says of raw columns: the number that every other form of the model is compared with.

    Args:
        module: Gives one logit a row, [n] or [n, 1].
        preprocessing: Learnt with it.
        columns: Raw columns, [n] each.

    Returns:
        float32 [n].
    """
    import torch

    categorical, numeric = preprocessing.apply(columns)
    was_training = module.training
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module.eval()
    try:
        with torch.no_grad():
            inputs = torch.from_numpy(categorical).to(device), torch.from_numpy(numeric).to(device)
            logit = module(*arguments(module, *inputs))
            probability: np.ndarray[Any, Any] = torch.sigmoid(logit.float().reshape(-1)).cpu().numpy()
    finally:
        module.train(was_training)
    return probability
