"""Stages as pods of a Kubernetes cluster. Everything that decides is pure and works on plain values.

- ``names``, ``templates``, ``manifests``: a request → the objects that are created
- ``facts``, ``observing``: a job and its pods → what a person should know, and how far it is
- ``api``, ``rights``: one request to the API server, its errors in our words, and whether we may
- ``objects``: what lies in a namespace
- ``submitting``: a request becomes a job once: submit, adopt
- ``pods``: `KubernetesPods`, the compute: submit, poll, logs, cancel
"""
