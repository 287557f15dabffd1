"""Builds, caches and installs Horovod, of which PyPI has only a source archive that no current toolchain compiles.

The build takes minutes and its result is one megabyte, so the wheel is kept in the user's cache folder under a key of
everything that decides its binary: Horovod's version, our patches and flags, the full version of torch, the Python tag
and the platform. Any virtual environment on the machine that agrees on the key installs it in a second.

Run ``python -m airflow_ml.training.horovod_wheel`` with the interpreter that shall have Horovod; torch must be
installed there. Only the standard library is imported, because this runs while the environment is being made.

Source: https://horovod.readthedocs.io/en/stable/install_include.html
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from airflow_ml.training.horovod_source import HOROVOD_VERSION, PATCHES, HorovodBuildError, patched_source, run

BUILD_FLAGS: Mapping[str, str] = {
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # the bundled third-party projects ask for policies that CMake 4 removed
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_CPU_OPERATIONS": "GLOO",
    "LDFLAGS": "-s",  # without debug symbols: 1 MB instead of 18
}

CUDA_VARIABLES = ("CUDA_HOME", "CUDA_PATH")
"""A CUDA toolkit found by accident would be half used: NCCL is a build option of the GPU image, not of this wheel."""

RECIPE = hashlib.sha256(repr((PATCHES, sorted(BUILD_FLAGS.items()))).encode()).hexdigest()[:8]
"""Of all that we change and ask for: other patches make another wheel."""

_SMOKE_TEST = """
import torch, horovod.torch as hvd
assert hvd.gloo_built(), "built without Gloo"
hvd.init()
total = hvd.allreduce(torch.ones(2), op=hvd.Sum)
assert hvd.size() == 1 and total.tolist() == [1.0, 1.0], (hvd.size(), total)
hvd.shutdown()
"""


def cache_folder() -> Path:
    """Returns the folder of built wheels in the user's cache folder (XDG)."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The specification says that a relative path in the variable is to be ignored.
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".cache"
    return base / "airflow-ml" / "wheels"


def torch_version() -> str:
    """Returns torch's full version with its local part (``2.13.0+cpu``): CPU and CUDA builds differ in their ABI.

    Raises:
        HorovodBuildError: torch is not installed for this interpreter.
    """
    try:
        # Its metadata drops the local part on PyPI, so the generated module is read; importing torch takes seconds.
        distribution = importlib.metadata.distribution("torch")
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        raise HorovodBuildError(
            f"torch is not installed for {sys.executable}, and Horovod compiles against it: install torch first."
        ) from error
    found = re.search(r"^__version__ = '([^']+)'", text, flags=re.MULTILINE)
    return found.group(1) if found else distribution.version


def cache_key(torch: str) -> str:
    """Returns the name of the folder that holds the wheel for this interpreter and the given torch.

    Args:
        torch: torch's full version.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = re.sub(r"[^A-Za-z0-9_.]", "_", sysconfig.get_platform())
    return f"horovod-{HOROVOD_VERSION}-{RECIPE}-torch{torch}-{python}-{platform}"


def cached_wheel(folder: Path) -> Path | None:
    """Returns the wheel in a cache folder, or None; a folder is published whole, so what is there is complete.

    Args:
        folder: The folder of one cache key.
    """
    return next(iter(sorted(folder.glob("horovod-*.whl"))), None)


def ensure_wheel(*, force: bool = False) -> Path:
    """Returns the cached wheel, building it first where there is none.

    Args:
        force: Build again and replace the cached wheel.

    Raises:
        HorovodBuildError: The build failed or cannot start.
    """
    cache = cache_folder()
    folder = cache / cache_key(torch_version())
    if not force and (wheel := cached_wheel(folder)):
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock"):
        # Another process may have built it while this one waited for the lock.
        if not force and (wheel := cached_wheel(folder)):
            return wheel
        with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as scratch:
            built = _build(Path(scratch))
            return _publish(built, folder, Path(scratch))


def install(wheel: Path) -> None:
    """Installs a wheel into this interpreter's environment, without its dependencies: the lock has them.

    Args:
        wheel: The wheel's path.
    """
    command = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    run([sys.executable, "-m", "pip", *command], what="installing the Horovod wheel")


def smoke_test() -> None:
    """Runs one Horovod process with an allreduce over Gloo.

    Raises:
        HorovodBuildError: Horovod does not import, start or reduce here.
    """
    # Gloo's address comes from these when a launcher set them; alone, a process must not wait for its peers.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    # The shared folder of a checkout must not shadow the installed package.
    with tempfile.TemporaryDirectory() as elsewhere:
        run(
            [sys.executable, "-c", _SMOKE_TEST],
            what="the smoke test of the installed Horovod",
            env=environment,
            cwd=Path(elsewhere),
            timeout=180,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds Horovod where needed, installs it and tests it; the exit status is 0 when it works.

    Args:
        arguments: The command line without the program's name; the process's own by default.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_ml.training.horovod_wheel", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--force", action="store_true", help="build again, even if the cache has a wheel")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        wheel = ensure_wheel(force=options.force)
        install(wheel)
        try:
            smoke_test()
        except HorovodBuildError:
            if options.force:
                raise
            # A cached wheel can be older than the machine's compiler runtime: one fresh build decides.
            print("The cached Horovod wheel does not work here; building it again.", flush=True)
            install(ensure_wheel(force=True))
            smoke_test()
    except HorovodBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Horovod {HOROVOD_VERSION} is installed and works ({time.monotonic() - started:.0f} s).")
    return 0


def _build(scratch: Path) -> Path:
    """Compiles the wheel in an empty folder."""
    _check_toolchain()
    environment = {name: value for name, value in os.environ.items() if name not in CUDA_VARIABLES}
    environment |= BUILD_FLAGS
    environment.setdefault("MAKEFLAGS", f"-j{len(os.sched_getaffinity(0))}")
    environment["HOROVOD_CMAKE"] = _find_cmake(scratch)
    source = patched_source(scratch)
    print(f"Compiling Horovod {HOROVOD_VERSION} against torch {torch_version()}: 2 to 4 minutes, once.", flush=True)
    # No build isolation: the build asks the installed torch for its headers and flags.
    command = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(scratch), str(source)]
    run([sys.executable, "-m", "pip", *command], what="compiling Horovod", env=environment)
    wheel = cached_wheel(scratch)
    if wheel is None:
        raise HorovodBuildError("pip reported success but left no Horovod wheel; run again with --force.")
    return wheel


def _check_toolchain() -> None:
    """Fails early, with the remedy, where the compile would fail late without it."""
    remedy = "Debian and Ubuntu: apt-get install g++ make; Fedora: dnf install gcc-c++ make"
    for program in (os.environ.get("CXX", "g++").split()[0], "make"):
        if shutil.which(program) is None:
            raise HorovodBuildError(f"{program} is not on PATH, and Horovod must be compiled. {remedy}.")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        raise HorovodBuildError(
            f"Python's headers are missing ({header}). Debian and Ubuntu: apt-get install python3-dev."
        )
    try:
        importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError as error:
        raise HorovodBuildError(
            "setuptools is missing, and Horovod's build needs it: pip install 'setuptools<81'."
        ) from error


def _find_cmake(scratch: Path) -> str:
    """Returns a CMake program: the one on PATH, else PyPI's in a throw-away environment."""
    if found := shutil.which("cmake"):
        return found
    environment = scratch / "cmake"
    run([sys.executable, "-m", "venv", str(environment)], what="making an environment for CMake")
    python = environment / "bin" / "python"
    run(
        [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "cmake>=3.25"],
        what="installing CMake from PyPI (or install it with the system's package manager)",
    )
    return str(environment / "bin" / "cmake")


def _publish(wheel: Path, folder: Path, scratch: Path) -> Path:
    """Moves a finished wheel to its cache folder, by rename: a reader sees no wheel or all of it."""
    staged = scratch / "publish"
    staged.mkdir()
    wheel.rename(staged / wheel.name)
    if folder.exists():
        folder.rename(scratch / "replaced")
    staged.rename(folder)
    return folder / wheel.name


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; the kernel releases it however the process ends."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that builds Horovod ...", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
