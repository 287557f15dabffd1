"""Loading TensorFlow, beside torch, without noise and without a crash."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any


def tensorflow() -> Any:
    """The ``tensorflow`` module.

    Import TensorFlow through here, before anything that imports it. CUDA builds of torch bring ``triton``, whose native
    library ends the process with a segmentation fault when it is loaded after TensorFlow's (both carry LLVM). torch
    loads it late, with its first optimizer or export, and does without it where it is not installed; so it is made to
    look like that. Where triton was loaded first, the two get along.
    """
    if "tensorflow" not in sys.modules:
        # Only errors: the hints about CPU features and CUDA libraries hide what a stage has to say.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "triton" not in sys.modules:
        sys.modules["triton"] = None  # type: ignore[assignment]
        logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # warns that it is missing
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)  # the session API is deprecated in Python and what TF Serving runs
    return tf
