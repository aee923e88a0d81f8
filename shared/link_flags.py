"""Flags that both ends of a link have: keys, and what proves a connection to a broker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import UsageError
from shared.transports import ClientOptions, StationOptions, TlsOptions, check_address, options_for
from shared.transports.options import BROKERS, scheme_and_user

Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without seals: anyone on the way can read and forge pictures.")
]
TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", metavar="FILE", help="mqtts: certificates that may sign the broker's.")
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="mqtts: certificate to show to the broker.")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="mqtts: private key of --tls-cert.")]
PasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds the password of the user that a URL names.")
]


def tls_options(ca: Path | None, certificate: Path | None, key: Path | None) -> TlsOptions:
    """Put the flags together.

    Raises:
        UsageError: if a certificate comes without its key, or a key alone.
    """
    if (certificate is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both or none")
    return TlsOptions(ca, certificate, key)


def check_addresses(urls: Sequence[str], options: ClientOptions | StationOptions) -> None:
    """Check all addresses of a command before it begins anything, and that no flag is for none of them.

    Args:
        urls: of stations for `ClientOptions`, to listen on for `StationOptions`.
        options: of all of them; each gets what is for it, see `options_for`.

    Raises:
        UsageError: if an address is wrong, or flags of brokers come without the address of one.
        PinholeError: if a file that the flags name cannot be used.
    """
    known = [scheme_and_user(url) for url in urls]
    if options.tls != TlsOptions() and not any(scheme == "mqtts" for scheme, _ in known):
        raise UsageError("--tls-ca, --tls-cert and --tls-key are for mqtts:// addresses; name one or leave them out")
    if options.password_file is not None and not any(scheme in BROKERS and user for scheme, user in known):
        raise UsageError("--password-file is for a user at a broker; write mqtts://USER@HOST or leave it out")
    for url in urls:
        check_address(url, options_for(url, options))


def refuse_half_sealed(*, insecure: bool, keys: bool, how: str) -> None:
    """Check that either seals or their absence was asked for, not both and not neither.

    Raises:
        UsageError: with ``how`` to seal.
    """
    if insecure and keys:
        raise UsageError("--insecure and keys exclude each other; leave one out")
    if not insecure and not keys:
        raise UsageError(f"{how}; or say --insecure to go without seals, when anyone on the way can read and forge")
