"""What the ends of a link tell their transports beside the address."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from shared.link.keys import PublicKey, SecretKey

BROKERS = ("mqtt", "mqtts")
"""Schemes of brokers' addresses."""

Report = Callable[[str], None]
"""Takes one line for a person about what happens to a transport later: a connection lost, refused, back again."""


def tell_nobody(line: str) -> None:
    """The `Report` of owners that do not listen."""


@dataclass(frozen=True)
class TlsOptions:
    """How a TLS connection to a broker is proved, on both sides (RFC 8446).

    Attributes:
        ca_file: certificates that may sign the broker's, PEM; None for those of the system.
        certificate_file: this client's own certificate, PEM; None to show none.
        key_file: private key of ``certificate_file``, PEM.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class ClientOptions:
    """Of a sender's transport.

    Attributes:
        sender: who connects, u32; brokers need it for topics before the first packet. The identity of the sender's keys
            where there are some, else its id.
        rate: bit/s that the session sends at most, None for no limit. Transports pace with it and bound what they hold.
        packet_bytes: largest packet that the session makes.
        max_age: seconds after which a packet that waits at a broker is worth nothing any more, None for ever.
        secret: this sender's keys where the transport seals the connection as well (CURVE), else None.
        station: the station's public keys, likewise.
        tls: for ``mqtts://``.
        password_file: holds the password for the user that the address names, on its first line.
        report: hears what happens later.
    """

    sender: int = 0
    rate: float | None = None
    packet_bytes: int = 1200
    max_age: float | None = None
    secret: SecretKey | None = None
    station: PublicKey | None = None
    tls: TlsOptions = TlsOptions()
    password_file: Path | None = None
    report: Report = tell_nobody


@dataclass(frozen=True)
class StationOptions:
    """Of a station's transport.

    Attributes:
        station: the station's id, u32, by which brokers tell stations apart.
        packet_bytes: largest packet that the station sends.
        secret: the station's keys where the transport seals the connection as well (CURVE), else None.
        admits: whether the CURVE public key (32 bytes) of a connecting sender is on the allow list; asked at every
            connection, so that a revoked key is refused from then on.
        tls: for ``mqtts://``.
        password_file: as for `ClientOptions`.
        report: hears what happens later.
    """

    station: int = 0
    packet_bytes: int = 1200
    secret: SecretKey | None = None
    admits: Callable[[bytes], bool] | None = None
    tls: TlsOptions = TlsOptions()
    password_file: Path | None = None
    report: Report = tell_nobody


_Options = TypeVar("_Options", bound=ClientOptions | StationOptions)


def options_for(url: str, options: _Options) -> _Options:
    """Of options for several addresses, those for one of them.

    Args:
        url: the address.
        options: TLS is for ``mqtts://`` alone, the password file for brokers where the address names a user.
    """
    scheme, username = scheme_and_user(url)
    return replace(
        options,
        tls=options.tls if scheme == "mqtts" else TlsOptions(),
        password_file=options.password_file if scheme in BROKERS and username else None,
    )


def scheme_and_user(url: str) -> tuple[str, str | None]:
    """Of what an address begins with; empty and None of what is no address, which its parser tells."""
    try:
        return url.partition("://")[0], urlsplit(url).username
    except ValueError:
        return "", None
