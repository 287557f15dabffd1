"""spark-submit entry point of the stage ``features``: arguments only, the work is `airflow_ml.stages`.

spark-submit spark_jobs/features.py REQUEST.json RESPONSE.json
"""

import argparse
import sys
from pathlib import Path

from airflow_ml.stages.__main__ import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run one JobRequest of the stage features under spark-submit.")
    parser.add_argument("request", type=Path, help="a JobRequest as JSON")
    parser.add_argument("response", type=Path, help="where the JobResult, or the error, is written")
    arguments = parser.parse_args()
    sys.exit(main(arguments.request, arguments.response))
