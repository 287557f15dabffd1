"""The online path: raw features by name in, the answer of the right version out, and a record of both in the lake.

A model server answers for versions; this service stands before it and owns what it does not know: who gets which
version, what a request must look like, what is answered when a version fails, and what was answered. It composes
adapters as a stage does, and knows no Airflow.
"""
