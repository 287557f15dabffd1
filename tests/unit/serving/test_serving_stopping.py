"""Signals that arrive while others are handled."""

import subprocess
import sys

_SCRIPT = """
import os, signal, threading
from airflow_ml.serving.stopping import Stop

stop = Stop()
assert not stop.is_set() and not stop.wait(0.01)
signal.signal(signal.SIGTERM, lambda *_: stop.set())

def storm():
    for _ in range(100_000):
        os.kill(os.getpid(), signal.SIGTERM)

sender = threading.Thread(target=storm)
sender.start()
while sender.is_alive():
    stop.wait(0.01)
assert stop.is_set() and stop.wait()
print("stopped")
"""


def test_a_storm_of_signals_ends_in_a_stop():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
