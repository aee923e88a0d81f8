"""CURVE on ZeroMQ connections (ZMTP 3.1, CurveZMQ), with an allow list at the station (ZAP, RFC 27 of ZeroMQ)."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85

from shared.errors import PinholeError
from shared.link.keys import PublicKey, SecretKey
from shared.transports.address import Address
from shared.transports.options import Report, tell_nobody

_DOMAIN = "pinhole"
_KEYS_REMEMBERED = 64


CURVE_OPTIONS = ("curve",)
"""Of an address: ``curve=0`` goes without CURVE although there are keys, as a relay without keys must be reached."""


def wants_curve(address: Address) -> bool:
    """Whether the connection is to be sealed if there are keys.

    Raises:
        UsageError: if the option is neither 0 nor 1.
    """
    return bool(address.whole("curve", 1, 0, 1))


def seal_client(dealer: zmq.asyncio.Socket, secret: SecretKey, station: PublicKey) -> None:
    """Let a socket connect only to the station with this key, and prove its own."""
    dealer.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(secret.curve))
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(secret.public.curve))
    dealer.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(station.curve))


def demand_curve(url: str) -> None:
    """Check the library.

    Raises:
        PinholeError: if it was built without CURVE.
    """
    if not zmq.has("curve"):
        raise PinholeError(f"{url}: this ZeroMQ library was built without CURVE; install pyzmq from its wheels")


class Gatekeeper:
    """Answers for a station whether a connecting key is on the list.

    Args:
        context: of the station's socket; it can have one gatekeeper.
        admits: asked for each connection with the raw public key.
        report: is told of the first key that is refused; the others are only counted, or strangers could fill a log.
    """

    def __init__(
        self, context: zmq.asyncio.Context, admits: Callable[[bytes], bool], report: Report = tell_nobody
    ) -> None:
        self._admits = admits
        self._report = report
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._authenticator = AsyncioAuthenticator(context)
        self._authenticator.configure_curve_callback(_DOMAIN, self)
        self.refused = 0
        """Connections refused for their key."""

    @property
    def refused_keys(self) -> tuple[bytes, ...]:
        """The keys refused lately, each once, the latest last."""
        return tuple(self._recent)

    def guard(self, router: zmq.asyncio.Socket, secret: SecretKey) -> None:
        """Begin to answer, and let a socket that is not bound yet ask."""
        self._authenticator.start()
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(secret.curve))
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        # Without this, ZeroMQ lets everybody in while nobody answers.
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def callback(self, domain: str, key: bytes) -> bool:
        """Asked by the authenticator, with the key in Z85.

        A list that cannot be read at the moment admits nobody; an exception would end the authenticator instead, and
        with it all connections to come.
        """
        raw = z85.decode(key)
        admitted = False
        with contextlib.suppress(Exception):
            admitted = bool(self._admits(raw))
        if not admitted:
            if not self.refused:
                self._report(
                    "refused: the CURVE key of a connection is not on the allow list; see `pinhole keys allow` (more "
                    "of this kind are only counted)"
                )
            self.refused += 1
            self._recent.pop(raw, None)
            self._recent[raw] = None
            if len(self._recent) > _KEYS_REMEMBERED:
                self._recent.popitem(last=False)
        return admitted

    def stop(self) -> None:
        """Answer no more."""
        self._authenticator.stop()
