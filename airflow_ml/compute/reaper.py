"""Runs a command, and ends all that came of it when the command or its task ends. Standard library only.

    python reaper.py LIFELINE_FD GRACE_S COMMAND...

The task that started this holds the write end of the lifeline pipe. However that task ends, kill -9 included, the
kernel closes the pipe, and the reaper ends every descendant: SIGTERM, and after the grace SIGKILL, also those that have
a session of their own or ignore SIGTERM. It does the same on SIGTERM, and for what a command leaves behind when it
exits.

On Linux orphaned descendants are given to this process (``PR_SET_CHILD_SUBREAPER``), so none can hide. Other systems
have no such call: there a grandchild whose parent has ended before it is not found.

There, killing the reaper does not help to hide either: it works in a fork of this process, which stands guard. When the
reaper is killed, its descendants are given to the guard, which ends them; when the guard is, the kernel tells the
reaper, which does. What is left is kill -9 of both at once: the command goes with them, what has outlived its parent
is then nobody's.

Source: https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.02


def descendants() -> set[int]:
    """Pids of all living descendants of this process."""
    parents = _parents()
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        parent = todo.pop()
        children = [pid for pid, owner in parents.items() if owner == parent and pid not in found]
        found.update(children)
        todo.extend(children)
    return found


def _parents() -> dict[int, int]:
    """Pid to parent pid of every process that is not a zombie."""
    if not os.path.isdir("/proc/self"):
        return _parents_by_ps()
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name, in brackets, may hold anything: split after the last one.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    parents[int(name)] = int(parent)
    return parents


def _parents_by_ps() -> dict[int, int]:
    import subprocess

    parents: dict[int, int] = {}
    with subprocess.Popen(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as ps:
        for line in ps.stdout or ():
            pid, parent, state = line.split()[:3]
            if int(pid) != ps.pid and not state.startswith("Z"):
                parents[int(pid)] = int(parent)
    return parents


def end_all(grace_s: float) -> None:
    """End every descendant, politely first."""
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while left := descendants():
        late = time.monotonic() >= deadline
        for pid in left if late else left - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= left
        time.sleep(_TICK_S)
        collect()
    collect()


def collect() -> dict[int, int]:
    """Exit codes of children that have ended, own and adopted; a signal is a negative number."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def start(command: list[str], prctl: "Callable[..., int] | None") -> int:
    """Start the command; returns its pid."""
    me = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        if prctl is not None:
            # Should the reaper itself be killed, at least the command goes with it.
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", flush=True)
    os._exit(127)


def main(lifeline: int, grace_s: float, command: list[str]) -> int:
    """Run the command; returns its exit code, 128 + n for a signal."""
    os.set_inheritable(lifeline, False)
    if sys.platform != "linux":
        return reap(lifeline, grace_s, command, None)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    me = os.getpid()
    # Before the fork: a request to end that comes now is kept for the reaper.
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    reaper = os.fork()
    if reaper:
        return guard(reaper, asked, grace_s)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    code = reap(lifeline, grace_s, command, prctl) if os.getppid() == me else 1
    os._exit(code)


def guard(reaper: int, asked: list[int], grace_s: float) -> int:
    """Pass on what the reaper is asked, and end what it leaves; returns its exit code."""

    def pass_on(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(reaper, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    if asked:
        pass_on()
    _, status = os.waitpid(reaper, 0)
    end_all(grace_s)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def reap(lifeline: int, grace_s: float, command: list[str], prctl: "Callable[..., int] | None") -> int:
    """Run the command, and end all that came of it with it or with the lifeline; returns its exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    asked_to_end = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_end.append(True))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = start(command, prctl)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    poll.register(wake_read, select.POLLIN)
    while True:
        events = dict(poll.poll())
        if wake_read in events:
            os.read(wake_read, 1024)
        code = collect().get(child)
        if code is not None:
            end_all(grace_s)
            return 128 - code if code < 0 else code
        if asked_to_end or lifeline in events:
            end_all(grace_s)
            return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
