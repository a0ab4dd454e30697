"""A disk of a few megabytes that a test may fill: a tmpfs that only this process and what it starts can see."""

import asyncio
import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

_NEW_MOUNTS: Final = 0x00020000
_PRIVATE_BELOW: Final = 0x4000 | 0x40000
_PAGE: Final = 4096


class SmallDisk:
    """A mounted tmpfs. It vanishes with the process, however that ends. Skips the test where none can be mounted."""

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        self.folder.mkdir()
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={megabytes}m,mode=0700".encode()
        if (
            libc.unshare(_NEW_MOUNTS) != 0
            or libc.mount(b"none", b"/", None, _PRIVATE_BELOW, None) != 0
            or libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options) != 0
        ):
            pytest.skip(f"a small disk cannot be mounted: {os.strerror(ctypes.get_errno())}")
        # Threads that were there before still see the old mounts.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())

    def fill(self, *, but: int = 0) -> None:
        """Leaves so many pages free."""
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(fd, bytes(_PAGE))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        finally:
            os.ftruncate(fd, max(0, os.fstat(fd).st_size // _PAGE - but) * _PAGE)
            os.close(fd)

    def free(self) -> None:
        """Makes room again."""
        self._filler.unlink()

    def unmount(self) -> None:
        """Gives it back, though somebody may still have a file of it open."""
        ctypes.CDLL(None).umount2(os.fsencode(self.folder), 2)
