"""Registers versions 1 and 2 of the model of `asked`, and takes version 1 to all traffic: ``python -m`` in a process
of its own, because it needs TensorFlow and MLflow.
"""

import os
import sys
from pathlib import Path

from airflow_ml.compute.platform import load_platform
from tests.support.rollouts import Base, crown_first, graded, register
from tests.system.dags.asked import model

folder = Path(sys.argv[1])
platform = load_platform(os.environ)
register(platform, {version: graded(folder / str(version), 0.05 * version) for version in (1, 2)}, {1: 0.05, 2: 0.1})
crown_first(Base(model.model_copy(update={"approval": None}), platform))
