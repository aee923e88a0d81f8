"""Which of a host's addresses datagrams go to."""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from shared.transports.address import Address, resolve_all

FORGIVE = 60.0
"""Seconds after which an address that gave an error is as good as any other."""


class Target(NamedTuple):
    """An address of a host.

    Attributes:
        family: IPv4 or IPv6.
        host: the number, of a link-local one with its interface.
    """

    family: socket.AddressFamily
    host: str


class Lookup:
    """Looks a host up and chooses: the likeliest address that gave no error lately, else the one whose error is oldest.

    Args:
        address: whose host.
        clock: seconds, never running backwards.
    """

    def __init__(self, address: Address, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._failed: dict[Target, float] = {}

    @property
    def evading(self) -> bool:
        """Whether an address gave an error lately, so that the present one may be a substitute."""
        return bool(self._lately())

    def note_failure(self, target: Target) -> None:
        """An address gave an error."""
        self._failed = {**self._lately(), target: self._clock()}

    async def choose(self) -> Target:
        """Look up anew.

        Raises:
            PinholeError: if the host has no address.
        """
        found = await resolve_all(self._address, kind=socket.SOCK_DGRAM, passive=False)
        failed = self._lately()
        return min((Target(*one) for one in found), key=lambda target: failed.get(target, -1.0))

    def _lately(self) -> dict[Target, float]:
        now = self._clock()
        return {target: at for target, at in self._failed.items() if now - at < FORGIVE}
