"""Which files may be run: a regular file of a known language, inside a worker root, that no stranger can write."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from damad.errors import InvalidWorker

ON_NODE: Final = (".js", ".mjs", ".ts")
SUFFIXES: Final = (".py", *ON_NODE)
NO_NODE: Final = "needs Node.js, and there is no program `node` on the PATH"
_DELETED: Final = " (deleted)"
"""What the kernel adds to the path of a file that is there no more."""


def resolve(worker: str, roots: tuple[Path, ...], *, pointer: str | None = None) -> Path:
    """The real path of a worker that was given absolute or relative to a root.

    Raises InvalidWorker for one outside the roots (symbolic links are followed first), missing, no regular file, of
    an unknown language, or writable by others: the file itself or a folder up to its root.
    """
    if not isinstance(worker, str) or "\0" in worker or worker.endswith("/") or not _is_unicode(worker):
        raise InvalidWorker(f"worker {worker!r} names no file", pointer=pointer, worker=worker)
    for root in roots:
        real_root = _real(str(root))
        path = _real(os.path.join(real_root, worker))
        if not path.startswith(os.path.join(real_root, "")) or path == real_root:
            continue
        if os.path.lexists(path):
            return _checked(path, real_root, worker, pointer)
        if not Path(worker).is_absolute() and root is not roots[-1]:
            continue
        raise InvalidWorker(
            f"worker {worker!r} is not there; looked in {_shown(roots)}", pointer=pointer, worker=worker
        )
    raise InvalidWorker(
        f"worker {worker!r} is outside the worker roots: {_shown(roots)}", pointer=pointer, worker=worker
    )


def runs_on_node(path: Path) -> bool:
    """True for a worker in JavaScript or TypeScript."""
    return path.suffix in ON_NODE


def node() -> str | None:
    """The program that runs those, or None where Node.js is not installed."""
    return shutil.which("node")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(roots: tuple[Path, ...]) -> str:
    return ", ".join(map(str, roots)) or "none"


def _real(path: str) -> str:
    """The path without links, as `os.path.realpath` has it. That asks for each part of a path, and of what is there the
    kernel knows it; unless it says that it was deleted, which something else at its place may not be."""
    with suppress(OSError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            real = os.readlink(f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)
        if not real.endswith(_DELETED):
            return real
    return os.path.realpath(path)


def _checked(real: str, root: str, worker: str, pointer: str | None) -> Path:
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        raise InvalidWorker(f"worker {worker!r} cannot be read: {error.strerror}", pointer=pointer) from None
    if not stat.S_ISREG(mode):
        raise InvalidWorker(f"worker {worker!r} is not a regular file", pointer=pointer)
    path = Path(real)
    if path.suffix not in SUFFIXES:
        raise InvalidWorker(
            f"worker {worker!r} is in no language that damad runs: its name ends in none of {', '.join(SUFFIXES)}",
            pointer=pointer,
        )
    if runs_on_node(path) and node() is None:
        raise InvalidWorker(f"worker {worker!r} {NO_NODE}", pointer=pointer)
    place = real
    while not mode & stat.S_IWOTH and place != root:
        place = os.path.dirname(place)
        mode = os.stat(place).st_mode
    if mode & stat.S_IWOTH:
        raise InvalidWorker(f"worker {worker!r} can be written by others: chmod o-w {place}", pointer=pointer)
    return path
