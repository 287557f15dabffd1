"""The job process ends at once, and still does what was registered for its end."""

import subprocess
import sys

LEAVING = """
import atexit, sys
from airflow_ml.stages.__main__ import leave

class Slow:
    def __del__(self):
        print("torn down")

atexit.register(print, "registered")
held = Slow()
sys.stdout.write("said ")
leave(3)
"""


def test_what_was_registered_is_done_and_nothing_is_torn_down():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "said registered\n"), done.stderr
