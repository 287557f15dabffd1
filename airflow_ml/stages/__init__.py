"""The stages of a model's life, one module each; run by `python -m airflow_ml.stages REQUEST.json`."""
