"""Stages as pods of a Kubernetes cluster. Everything that decides is pure and works on plain values.

- ``names``, ``templates``, ``manifests``: a request → the objects that are created
- ``observing``: a job and its pods → how far it is, and what a person should know
- ``api``, ``rights``: one request to the API server, its errors in our words, and whether we may
- ``pods``: `KubernetesPods`, the compute: submit, adopt, poll, logs, cancel
"""
