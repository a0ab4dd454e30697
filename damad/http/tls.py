"""TLS: what the port needs to be listened to from elsewhere than this machine.

Over a network a token can be read by whoever stands between, and what is sent with it can be changed. So no address but
loopback is listened on without TLS, whatever else guards the network.
"""

import ipaddress
import os
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

from damad.config import Config
from damad.errors import ConfigError

_READABLE_BY_ALL: Final = 0o004


def context(settings: Config) -> ssl.SSLContext | None:
    """What to listen with, TLS 1.2 or newer; None where no certificate is set.

    Raises ConfigError for a certificate or a key that cannot be used, or a key that everybody can read.
    """
    if settings.tls_cert is None:
        return None
    key = settings.tls_key or settings.tls_cert
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        if os.stat(key).st_mode & _READABLE_BY_ALL:
            raise ConfigError(f"tls_key: everybody can read the key in {key}; chmod 600 it")
        settings.tls_cert.open("rb").close()
        made.load_cert_chain(settings.tls_cert, key, password=_no_password(key))
    except ssl.SSLError as error:
        why = (error.reason or "").lower().replace("_", " ") or "no PEM"
        raise ConfigError(f"tls_cert {settings.tls_cert}, tls_key {key}: no certificate and its key ({why})") from None
    except OSError as error:
        raise ConfigError(f"tls_cert, tls_key: {error.filename}: {error.strerror}") from None
    return made


def refuse_strangers(settings: Config, addresses: Iterable[str]) -> None:
    """Raises ConfigError where one of the addresses that were taken can be reached from elsewhere, without TLS."""
    for address in addresses:
        if settings.tls_cert is None and not is_loopback(address):
            raise ConfigError(
                f"host {settings.host} is open to other machines: set tls_cert and tls_key, or listen on 127.0.0.1"
            )


def is_loopback(address: str) -> bool:
    """True for an address at which only this machine can be reached."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _no_password(key: Path) -> Callable[[], str]:
    def ask() -> NoReturn:
        raise ConfigError(f"tls_key: the key in {key} is encrypted; give one that is not, with mode 600")

    return ask
