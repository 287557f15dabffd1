"""Horovod's source archive, of which PyPI has no wheel, and what is changed in it before it is compiled.

*To compile at all*: torch's headers need C++17. *To exchange at once and leave the cores alone*: Horovod's background
thread looks for gradients in each cycle (1 ms) and asks all ranks each time, whether or not there are any, and whoever
waits for a gradient spins. On cores that the ranks fill, that costs a third of a training step. Changed, the thread
sleeps until a gradient is there, and whoever waits for one sleeps until it has come. A rank that has nothing to
exchange still takes part every 20 ms, so nothing that others wait for times out. The declared cycle time is still the
least time between two rounds of exchange.

Only the standard library is imported, because this runs while the environment is being made.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOROVOD_VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"


class HorovodBuildError(RuntimeError):
    """Horovod could not be built or does not work; the message names the cause and the remedy."""


@dataclass(frozen=True)
class Patch:
    """One place of one file.

    Attributes:
        file: Inside the archive's folder.
        old: Text that the file has exactly once.
        new: What takes its place.
    """

    file: str
    old: str
    new: str


_QUEUE = "horovod/common/tensor_queue"
_HANDLES = "horovod/torch/handle_manager"

CXX17 = (
    Patch("CMakeLists.txt", "CMAKE_CXX_STANDARD 14", "CMAKE_CXX_STANDARD 17"),
    Patch("horovod/torch/CMakeLists.txt", "CMAKE_CXX_STANDARD 14", "CMAKE_CXX_STANDARD 17"),
)
"""torch's headers have needed it since 2.1."""

SLEEP_UNTIL_A_TENSOR_COMES = (
    Patch(
        f"{_QUEUE}.h",
        "#include <iostream>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n",
    ),
    Patch(
        f"{_QUEUE}.h",
        "  void RemoveJoinTensor();\n",
        """  void RemoveJoinTensor();

  // Returns when a tensor waits to be exchanged, or after some time.
  void AwaitTensor(std::chrono::milliseconds at_most) {
    std::unique_lock<std::mutex> lock(mutex_);
    arrived_.wait_for(lock, at_most, [this] { return !tensor_table_.empty(); });
  }
""",
    ),
    Patch(
        f"{_QUEUE}.h",
        "  mutable std::mutex mutex_;\n",
        "  mutable std::mutex mutex_;\n\n  std::condition_variable arrived_;\n",
    ),
    Patch(
        f"{_QUEUE}.cc",
        "  message_queue_.push(std::move(message));\n  return",
        "  message_queue_.push(std::move(message));\n  arrived_.notify_one();\n  return",
    ),
    Patch(
        f"{_QUEUE}.cc",
        "    message_queue_.push(std::move(messages[i]));\n  }\n",
        "    message_queue_.push(std::move(messages[i]));\n  }\n  arrived_.notify_one();\n",
    ),
    Patch(
        "horovod/common/operations.cc",
        "  state.last_cycle_start = std::chrono::steady_clock::now();\n",
        # With more than one set of processes the queue of one says nothing of the others: there all is as it was.
        """  if (!state.shut_down && !state.dynamic_process_sets && state.process_set_table.Ids().size() == 1) {
    state.process_set_table.Get(0).tensor_queue.AwaitTensor(std::chrono::milliseconds(20));
  }
  state.last_cycle_start = std::chrono::steady_clock::now();
""",
    ),
)

SLEEP_UNTIL_A_TENSOR_IS_DONE = (
    Patch(f"{_HANDLES}.h", "#include <atomic>\n", "#include <atomic>\n#include <condition_variable>\n"),
    Patch(
        f"{_HANDLES}.h",
        "  bool PollHandle(int handle);\n",
        "  bool PollHandle(int handle);\n  void AwaitHandle(int handle);\n",
    ),
    Patch(f"{_HANDLES}.h", "  std::mutex mutex_;\n", "  std::mutex mutex_;\n  std::condition_variable done_;\n"),
    Patch(
        f"{_HANDLES}.cc",
        "  results_[handle] = std::make_shared<Status>(status);\n",
        "  results_[handle] = std::make_shared<Status>(status);\n  done_.notify_all();\n",
    ),
    Patch(f"{_HANDLES}.cc", "  results_.clear();\n", "  results_.clear();\n  done_.notify_all();\n"),
    Patch(
        f"{_HANDLES}.cc",
        "bool HandleManager::PollHandle(",
        """// Returns when the handle's work has ended, or nobody knows the handle any more.
void HandleManager::AwaitHandle(int handle) {
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this, handle] {
    auto found = results_.find(handle);
    return found == results_.end() || found->second != nullptr;
  });
}

bool HandleManager::PollHandle(""",
    ),
    Patch(
        "horovod/torch/mpi_ops_v2.cc",
        "      std::this_thread::yield();\n",
        "      handle_manager.AwaitHandle(handle);\n",
    ),
)

PATCHES = (*CXX17, *SLEEP_UNTIL_A_TENSOR_COMES, *SLEEP_UNTIL_A_TENSOR_IS_DONE)


def patched_source(scratch: Path) -> Path:
    """Downloads, checks, unpacks and patches the source archive.

    Args:
        scratch: Empty folder to do it in.

    Returns:
        The unpacked folder.

    Raises:
        HorovodBuildError: It cannot be downloaded, or is another one than was patched.
    """
    archive = scratch / f"horovod-{HOROVOD_VERSION}.tar.gz"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "horovod", "--dest", str(scratch)]
    run(
        [sys.executable, "-m", "pip", "download", *options, f"horovod=={HOROVOD_VERSION}"],
        what="downloading Horovod's source archive",
    )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise HorovodBuildError(
            f"{archive.name} has SHA-256 {digest}, expected {SDIST_SHA256}: check the package index that pip uses."
        )
    with tarfile.open(archive) as contents:
        # The digest is known, so no extraction filter is needed; Python before 3.11.4 has none.
        contents.extractall(scratch)
    source = scratch / f"horovod-{HOROVOD_VERSION}"
    for patch in PATCHES:
        apply(patch, source)
    return source


def apply(patch: Patch, source: Path) -> None:
    """Makes one change.

    Args:
        patch: What and where.
        source: The archive's folder.

    Raises:
        HorovodBuildError: The file does not have the text exactly once, so this is not the source that was patched.
    """
    file = source / patch.file
    text = file.read_text(encoding="utf-8")
    if (times := text.count(patch.old)) != 1:
        raise HorovodBuildError(f"{patch.file} has what is to be patched in it {times} times, not once: {patch.old!r}.")
    file.write_text(text.replace(patch.old, patch.new), encoding="utf-8")


def run(
    command: Sequence[str],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> None:
    """Runs a command quietly; a failure shows the end of its output, where compilers say what went wrong.

    Args:
        command: Program and arguments.
        what: Words for the message.
        env: Environment; this process's by default.
        cwd: Folder; this process's by default.
        timeout: Seconds.

    Raises:
        HorovodBuildError: It failed or took too long.
    """
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HorovodBuildError(f"{what} did not finish in {timeout:.0f} s.") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise HorovodBuildError(f"{what} failed with exit status {done.returncode}. Its last lines:\n{tail}")
