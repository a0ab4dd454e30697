"""What systemd needs to hear from a service, and the unit that runs damad under it.

The protocol is one datagram of NAME=VALUE lines to the socket in NOTIFY_SOCKET: sd_notify(3).
"""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from damad import config


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
    """
    lines = [
        "[Unit]",
        "Description=damad, a daemon that runs ETL tasks",
        "After=network-online.target postgresql.service",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "ExecStart=" + " ".join([sys.executable, "-P", "-m", "damad", "serve", *options]),
        f"WorkingDirectory={working_folder}",
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
