"""Which files may be run: a regular file of a known language, inside a worker root, that no stranger can write."""

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from damad.errors import InvalidWorker

ON_NODE: Final = (".js", ".mjs", ".ts")
SUFFIXES: Final = (".py", *ON_NODE)
NO_NODE: Final = "needs Node.js, and there is no program `node` on the PATH"


def resolve(worker: str, roots: tuple[Path, ...], *, pointer: str | None = None) -> Path:
    """The real path of a worker that was given absolute or relative to a root.

    Raises InvalidWorker for one outside the roots (symbolic links are followed first), missing, no regular file, of
    an unknown language, or writable by others: the file itself or a folder up to its root.
    """
    if not isinstance(worker, str) or "\0" in worker or worker.endswith("/") or not _is_unicode(worker):
        raise InvalidWorker(f"worker {worker!r} names no file", pointer=pointer, worker=worker)
    shown = ", ".join(map(str, roots)) or "none"
    for root in roots:
        real_root = Path(os.path.realpath(root))
        path = Path(os.path.realpath(real_root / worker))
        if not path.is_relative_to(real_root) or path == real_root:
            continue
        if os.path.lexists(path):
            _check(path, real_root, worker, pointer)
            return path
        if not Path(worker).is_absolute() and root is not roots[-1]:
            continue
        raise InvalidWorker(f"worker {worker!r} is not there; looked in {shown}", pointer=pointer, worker=worker)
    raise InvalidWorker(f"worker {worker!r} is outside the worker roots: {shown}", pointer=pointer, worker=worker)


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


def _check(path: Path, root: Path, worker: str, pointer: str | None) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InvalidWorker(f"worker {worker!r} cannot be read: {error.strerror}", pointer=pointer) from None
    if not stat.S_ISREG(mode):
        raise InvalidWorker(f"worker {worker!r} is not a regular file", pointer=pointer)
    if path.suffix not in SUFFIXES:
        raise InvalidWorker(
            f"worker {worker!r} is in no language that damad runs: its name ends in none of {', '.join(SUFFIXES)}",
            pointer=pointer,
        )
    if runs_on_node(path) and node() is None:
        raise InvalidWorker(f"worker {worker!r} {NO_NODE}", pointer=pointer)
    for place in (path, *path.parents):
        if place.stat().st_mode & stat.S_IWOTH:
            raise InvalidWorker(f"worker {worker!r} can be written by others: chmod o-w {place}", pointer=pointer)
        if place == root:
            break
