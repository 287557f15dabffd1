"""What the processes of `forked` begin with.

The only threads that these imports start are those of allocators and of BLAS, which know of forks, and one of polars,
which no stage uses.
"""

import deltalake
import evidently
import mlflow
import pandas
import pandera.pandas
import pyspark.sql
import torch

from airflow_ml.serving.engines import tensorflow
from airflow_ml.stages import runner

tensorflow()

__all__ = ["deltalake", "evidently", "mlflow", "pandas", "pandera", "pyspark", "runner", "torch"]
