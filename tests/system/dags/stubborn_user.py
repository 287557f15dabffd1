"""A user's label function that starts the worst children: one ignores SIGTERM, one has a session of its own as well."""

import os
import signal
import subprocess
import sys
import time

TAG = "airflow-ml-stubborn-child"
_CHILD = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); '{TAG}'; time.sleep(600)"


def label(outcomes):
    """Start the children, then never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for own_session in (False, True):
        subprocess.Popen([sys.executable, "-c", _CHILD], start_new_session=own_session, stdin=subprocess.DEVNULL)
    print(f"children started by {os.getpid()}", flush=True)
    time.sleep(600)
    return outcomes["y"]


def build(inputs):
    """Never reached."""
    return inputs.raw
