"""Serial lines and KISS modems, through pyserial, and KISS over TCP.

    serial:///dev/ttyUSB0?baud=9600     packets in COBS frames: null modems, transparent radio modems
    kiss:///dev/ttyUSB0?baud=9600       packets in KISS frames: a TNC
    kiss+tcp://localhost:8001           the same over TCP, as direwolf and other sound modems offer it

Both ends of the link are clients of their own device or modem. Nothing here waits in the event loop, and a line's
driver never holds much more than two packets, for ``send`` waits until the line has worked off the others.
"""

import asyncio
import errno
import termios
import time
from dataclasses import dataclass
from typing import TypeVar

import serial

from shared.errors import PinholeError, UsageError
from shared.transports.address import Address, parse_address
from shared.transports.base import LARGEST_PACKET
from shared.transports.lines.ax25 import HEADER_BYTES, Ax25Framing, encode_call_sign
from shared.transports.lines.byte_stream import Line, StreamClient, StreamEnd, StreamStation
from shared.transports.lines.framing import (
    FULL_DUPLEX,
    PERSISTENCE,
    SLOT_TIME,
    TXDELAY,
    CobsFraming,
    Framing,
    KissFraming,
    TncParameter,
)
from shared.transports.lines.pace import LinePace, Turns
from shared.transports.lines.serial_port import SerialPort
from shared.transports.lines.tcp_line import connect_tcp_line
from shared.transports.options import ClientOptions, StationOptions

KISS_PORT = 8001
"""Where direwolf listens for KISS."""

_KISS_MTU = 2048
"""Bytes: what direwolf takes as the contents of one AX.25 frame. Others take less: 256 by the letter of AX.25."""

_FLOWS = ("none", "rtscts", "xonxoff")
_PARITIES = {"N": serial.PARITY_NONE, "E": serial.PARITY_EVEN, "O": serial.PARITY_ODD}
_QUIET = 0.05
"""Seconds: USB adapters hold received bytes back for up to 16 ms, so gaps up to some of that are none."""

_QUIET_BYTES = 20
_TALK = 2.0
_GAPS_PER_QUIET = 5
_END = TypeVar("_END", bound=StreamEnd)


@dataclass(frozen=True)
class _LineSettings:
    """Of a serial device."""

    device: str
    baud: int
    flow: str
    parity: str
    half_duplex: bool

    @property
    def bytes_per_second(self) -> float:
        """Eight data bits, a start and a stop bit, and perhaps one of parity."""
        return self.baud / (10 if self.parity == "N" else 11)


def parse_serial(url: str) -> Address:
    """Read ``serial:///dev/...`` or ``kiss:///dev/...``.

    Raises:
        UsageError: if it is not of that form, or its options are wrong.
    """
    address = parse_address(url, device=True)
    _line_settings(address)
    _framing(address)
    return address


def parse_kiss_tcp(url: str) -> Address:
    """Read ``kiss+tcp://host[:port]``.

    Raises:
        UsageError: if it is not of that form, or its options are wrong.
    """
    address = parse_address(url, default_port=KISS_PORT)
    if address.port == 0:
        raise UsageError(f"{url}: a modem has a port above 0; name it")
    address.refuse_unknown(_KISS_OPTIONS)
    _framing(address)
    return address


async def open_serial_client(address: Address, options: ClientOptions) -> StreamClient:
    """Open a sender's serial line or modem.

    Raises:
        PinholeError: if the device is missing, in use, not permitted or no serial line, the modem cannot be reached,
            or packets are larger than the ``mtu``.
    """
    return await _open(address, options.packet_bytes, StreamClient)


async def open_serial_station(address: Address, options: StationOptions) -> StreamStation:
    """Open a station's serial line or modem.

    Raises:
        PinholeError: as for `open_serial_client`.
    """
    return await _open(address, options.packet_bytes, StreamStation)


def check_serial(address: Address, options: ClientOptions | StationOptions) -> None:
    """Check an address together with the options of its transport.

    Raises:
        UsageError: if packets are larger than the ``mtu``.
    """
    _framing_for(address, options.packet_bytes)


async def _open(address: Address, packet_bytes: int, kind: type[_END]) -> _END:
    framing, mtu = _framing_for(address, packet_bytes)
    end = kind(address.url, framing, mtu)
    # Of what a packet may become, the usual, not the worst: this only sets how many wait.
    depth = packet_bytes + packet_bytes // 64 + 8
    line: Line
    if address.host:
        line = await connect_tcp_line(address.host, address.port, address.url, end.take, end.end, depth)
    else:
        line = await _open_device(_line_settings(address), address.url, end, depth)
    try:
        await end.attach(line)
    except BaseException:
        await end.close()
        raise
    return end


async def _open_device(settings: _LineSettings, url: str, end: StreamEnd, depth: int) -> SerialPort:
    rate = settings.bytes_per_second
    turns = None
    if settings.half_duplex:
        quiet = max(_QUIET, _QUIET_BYTES / rate)
        turns = Turns(quiet=quiet, talk=max(_TALK, 2 * depth / rate), gap=_GAPS_PER_QUIET * quiet)
    # Opening talks to the device and may take its time.
    opening = asyncio.ensure_future(asyncio.to_thread(_open_port, settings, url))
    try:
        port = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_late)
        raise
    try:
        return SerialPort(port, url, end.take, end.end, pace=LinePace(rate, depth), turns=turns, clock=time.monotonic)
    except (OSError, termios.error) as error:
        port.close()
        raise PinholeError(f"{url}: the device has gone ({error.args[-1]}); plug it in again") from error


def _close_late(opening: "asyncio.Future[serial.Serial]") -> None:
    """Close a port that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _open_port(settings: _LineSettings, url: str) -> serial.Serial:
    try:
        return serial.Serial(
            settings.device,
            settings.baud,
            parity=_PARITIES[settings.parity],
            timeout=0,
            write_timeout=0,
            rtscts=settings.flow == "rtscts",
            xonxoff=settings.flow == "xonxoff",
            exclusive=True,
        )
    except OSError as error:
        raise PinholeError(f"{url}: {_reason(error.errno)}") from error
    except Exception as error:
        # pyserial lets through termios.error, ValueError, OverflowError ... for what a driver does not take.
        raise PinholeError(f"{url}: the device refuses {settings.baud} baud or its other options ({error})") from error


def _reason(number: int | None) -> str:
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return "there is no such device; check its name and that it is plugged in"
    if number in (errno.EACCES, errno.EPERM):
        return "no permission to use the device; join the group that owns it (often dialout)"
    if number in (errno.EAGAIN, errno.EBUSY):
        return "the device is in use; stop the program that has it open"
    return "that is no serial device; name one such as /dev/ttyUSB0"


_LINE_OPTIONS = ("baud", "flow", "parity", "half_duplex")
_KISS_OPTIONS = ("port", "mtu", "txdelay", "persistence", "slottime", "fullduplex", "callsign", "destination")


def _line_settings(address: Address) -> _LineSettings:
    kiss = address.scheme == "kiss"
    address.refuse_unknown(_LINE_OPTIONS + (_KISS_OPTIONS if kiss else ("mtu",)))
    if "baud" not in address.options:
        raise UsageError(f"{address.url}: name the speed of the line, as in {address.url}?baud=9600")
    flow = _one_of(address, "flow", _FLOWS)
    if kiss and flow == "xonxoff":
        raise UsageError(f"{address.url}: KISS cannot be sent over flow=xonxoff, which eats bytes of packets")
    return _LineSettings(
        device=address.path,
        baud=address.whole("baud", 0, 50, 4_000_000),
        flow=flow,
        parity=_one_of(address, "parity", tuple(_PARITIES)),
        half_duplex=bool(address.whole("half_duplex", 0, 0, 1)),
    )


def _framing(address: Address) -> tuple[Framing, int]:
    """The framing that an address asks for, and the largest packet that its frames hold."""
    if address.scheme == "serial":
        mtu = address.whole("mtu", LARGEST_PACKET, 48, LARGEST_PACKET)
        return CobsFraming(spare_flow_bytes=address.options.get("flow") == "xonxoff"), mtu
    parameters = [
        TncParameter(command, address.whole(name, 0, 0, highest) // unit)
        for name, command, highest, unit in (
            ("txdelay", TXDELAY, 2550, 10),
            ("persistence", PERSISTENCE, 255, 1),
            ("slottime", SLOT_TIME, 2550, 10),
            ("fullduplex", FULL_DUPLEX, 1, 1),
        )
        if name in address.options
    ]
    kiss = KissFraming(address.whole("port", 0, 0, 15), parameters)
    mtu = address.whole("mtu", _KISS_MTU, 48, LARGEST_PACKET - HEADER_BYTES)
    if "callsign" not in address.options:
        if "destination" in address.options:
            raise UsageError(f"{address.url}: option destination needs a callsign beside it")
        return kiss, mtu
    source, destination = _call_sign(address, "callsign", ""), _call_sign(address, "destination", "PINHOL")
    return Ax25Framing(kiss, source, destination), mtu


def _framing_for(address: Address, packet_bytes: int) -> tuple[Framing, int]:
    framing, mtu = _framing(address)
    if packet_bytes > mtu:
        raise UsageError(
            f"{address.url}: packets of {packet_bytes} bytes do not fit into its frames of {mtu}; make packets smaller "
            "or, if the modem takes more, set the option mtu"
        )
    return framing, mtu


def _call_sign(address: Address, name: str, default: str) -> bytes:
    text = address.options.get(name, default)
    encoded = encode_call_sign(text)
    if encoded is None:
        raise UsageError(f"{address.url}: option {name} is {text!r}; give a call sign such as N0CALL or N0CALL-7")
    return encoded


def _one_of(address: Address, name: str, known: tuple[str, ...]) -> str:
    value = address.options.get(name, known[0])
    if value not in known:
        raise UsageError(f"{address.url}: option {name} is {value!r}; give one of {', '.join(known)}")
    return value


__all__ = ["check_serial", "open_serial_client", "open_serial_station", "parse_kiss_tcp", "parse_serial"]
