"""A user's label function that does not end."""

import time


def label(outcomes):
    """Sleep longer than anybody waits."""
    time.sleep(600)
    return outcomes["y"]
