"""What systemd needs to hear from a service, and the unit that runs damad under it.

The protocol is one datagram of NAME=VALUE lines to the socket in NOTIFY_SOCKET: sd_notify(3).
"""

import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from damad import config
from damad.errors import InvalidInput

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,=+@-]+")
"""A word that systemd reads as it stands."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


def notify(**fields: str) -> bool:
    """Tells systemd, for instance notify(READY="1", STATUS="2 pg_envs"). False where nobody listens."""
    address = config.notify_socket()
    if not address:
        return False
    message = "\n".join(f"{name}={value}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(message.encode())
    except OSError:
        return False
    return True


def unit(*, working_folder: Path, user: str | None, options: Sequence[str] = ()) -> str:
    """The text of a unit for `damad serve` here.

    KillMode=process: systemd ends the daemon and leaves its workers alone, which the next one finds again.
    Raises InvalidInput for a user or a folder that no unit can name.
    """
    if user is not None and not _USER.fullmatch(user):
        raise InvalidInput(f"{user!r} is no name of a user", pointer="/user")
    program, *words = [sys.executable, "-P", "-m", "damad", "serve", *options]
    lines = [
        "[Unit]",
        "Description=damad, a daemon that runs ETL tasks",
        "After=network-online.target postgresql.service",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        " ".join(["ExecStart=" + _quoted(program), *(_quoted(word).replace("$", "$$") for word in words)]),
        f"WorkingDirectory={_path(working_folder)}",
        *([f"User={user}"] if user else []),
        "StateDirectory=damad",
        "StateDirectoryMode=0700",
        "KillMode=process",
        "Restart=on-failure",
        "RestartSec=1",
        "TimeoutStopSec=30",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    """A word of a command line as systemd reads it: systemd.service(5), "Command lines"; % begins a specifier."""
    if _PLAIN.fullmatch(word):
        return word
    return '"' + _one_line(word).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _path(folder: Path) -> str:
    """A folder as the value of a setting, which knows no quotes and loses what stands at its end."""
    text = _one_line(str(folder))
    if text != text.strip() or text.endswith("\\"):
        raise InvalidInput(f"a unit cannot name the folder {text!r}, for how it ends", pointer="/folder")
    return text.replace("%", "%%")


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise InvalidInput(f"a unit cannot name {text!r}: it is not one line of printable text")
    return text
