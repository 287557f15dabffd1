"""What a compute and the job that it starts agree on beside the request and the result: files, and exit codes.

The sender's half is `airflow_ml.compute`, the job's `airflow_ml.stages`, and neither imports the other.
"""

REQUEST = "request.json"
RESPONSE = "response.json"
LEASE = "lease"
"""Empty file whose time says when somebody last waited for the job, where jobs outlive their task."""

FAILED = 1
"""Exit code of a pod whose stage has said why it failed: the same again would fail the same way."""
BROKEN = 70
"""Exit code of a pod whose environment cannot import what a rank needs: the same again would fail the same way."""
GAVE_UP = 75
"""Exit code of a pod that no coordinator has answered for a long time."""
NOT_STARTED = 128
"""Exit code that Kubernetes gives a container whose program could not be started: it is not there, as a rule."""
KILLED = 137
"""Exit code of a container that the kernel ended: its memory was too small."""
LEFT = 143
"""128 + SIGTERM, exit code of a pod that was asked to go: it says nothing about the stage."""
