"""What the kernel offers and Python does not name: by the C library, opened once for all that is forked."""

import ctypes
from typing import Final

LIBC: Final = ctypes.CDLL(None)

fallocate = LIBC.fallocate
inotify_init1 = LIBC.inotify_init1
inotify_add_watch = LIBC.inotify_add_watch
prctl = LIBC.prctl
