"""Why a connection to a broker failed, in one line that names the mend, and whether trying again can help."""

import socket
import ssl
from pathlib import Path
from typing import NamedTuple

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from shared.errors import PinholeError
from shared.transports.address import Address
from shared.transports.options import TlsOptions

NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80
"""Reason codes from here on are failures (MQTT version 5, section 2.4)."""

_NOT_AUTHORIZED = 0x87
_CREDENTIALS = "the broker refuses this user or client; check user name, password file and the broker's access list"
_RIVAL = "another client with this id is there; give every sender and station an id of its own"
_HANGS_UP = "the broker hangs up instead of speaking TLS; is that its TLS port?"
_LASTING = {
    0x84: "the broker does not speak MQTT version 5; use one that does",
    0x85: "the broker refuses this client id; allow ids that begin with pinhole-",
    0x86: "the broker refuses user name or password; check both",
    _NOT_AUTHORIZED: _CREDENTIALS,
    0x8A: "the broker has banned this client; lift that there",
    0x8C: "the broker wants another way of authentication than a password; allow this one there",
    0x90: "the broker refuses the topic of the will; choose another prefix or allow it there",
    0x9A: "the broker keeps no retained messages; allow them there, presence needs them",
    0x9B: "the broker allows no QoS 1; allow it there",
    0x9C: "the broker says to use another server; change the address",
    0x9D: "the broker has moved for good; change the address",
}
_PASSING = {
    0x88: "the broker is not available",
    0x89: "the broker is busy",
    0x8B: "the broker shuts down",
    0x8D: "the broker heard nothing for too long; a larger keepalive may help",
    0x8E: _RIVAL,
    0x93: "the broker got more messages at once than it takes; lower receive_maximum",
    0x95: "a packet was larger than the broker takes; send smaller packets or allow larger ones there",
    0x97: "the broker's quota is used up",
    0x98: "the broker's operator closed the connection",
    0x9F: "the broker takes no connections that fast",
}


class Reason(NamedTuple):
    """Why there is no connection.

    Attributes:
        text: what a person reads: the thing and the mend.
        lasting: trying again will not help until somebody mends it.
        taken_over: another client has the same id, and we should leave it to it.
    """

    text: str
    lasting: bool = False
    taken_over: bool = False


class RefusedError(Exception):
    """A broker that took the connection refuses what the link needs on it; the message is for a person."""


class TakenOverError(Exception):
    """Another client with the same id was here while we were away."""


def reason_of(error: BaseException, address: Address, *, detail: BaseException | str | None = None) -> Reason:
    """Put a failure into words.

    Args:
        error: what the attempt raised.
        address: of the broker.
        detail: what lay below ``error``, where the library dropped it.
    """
    if isinstance(error, RefusedError):
        return Reason(str(error), lasting=True)
    if isinstance(error, TakenOverError):
        return Reason(_RIVAL, taken_over=True)
    code = _code_of(error)
    if code is not None and (code in _LASTING or code in _PASSING):
        text = _LASTING.get(code) or _PASSING[code]
        return Reason(text, lasting=code in _LASTING)
    if isinstance(detail, ssl.SSLError) or (isinstance(detail, str) and "SSL" in detail):
        return _tls_reason(detail)
    if address.scheme == "mqtts" and isinstance(
        detail, ConnectionResetError | ConnectionAbortedError | BrokenPipeError
    ):
        return Reason(_HANGS_UP)
    if isinstance(detail, ConnectionRefusedError):
        return Reason("no broker listens there")
    if isinstance(detail, TimeoutError) or isinstance(error, TimeoutError) or "timed out" in str(error):
        return Reason("the broker does not answer in time; a larger timeout may help")
    if isinstance(detail, socket.gaierror):
        return Reason(f"the host cannot be found ({(detail.strerror or str(detail)).lower()}); check its name")
    if isinstance(detail, OSError):
        return Reason(f"the broker cannot be reached ({(detail.strerror or str(detail)).lower()})")
    if address.scheme == "mqtt" and isinstance(error, ClosedEarlyError):
        return Reason("the broker closes the connection at once; does it want mqtts://?")
    if isinstance(error, ClosedEarlyError):
        return Reason("the broker closes the connection at once; does it want a client certificate?")
    return Reason("the connection broke")


class ClosedEarlyError(aiomqtt.MqttError):
    """The broker closed the connection before it answered the first message."""


def refusal(what: str, code: ReasonCode) -> str:
    """The line for a subscription or a message that the broker turned down."""
    mend = "its access list must allow that" if code.value == _NOT_AUTHORIZED else "look at the broker's settings"
    return f"the broker refuses {what} ({str(code).lower()}); {mend}"


def _code_of(error: BaseException) -> int | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, aiomqtt.MqttCodeError) and isinstance(seen.rc, ReasonCode):
            return int(seen.rc.value)
        seen = seen.__cause__
    return None


def _tls_reason(detail: ssl.SSLError | str) -> Reason:
    text = str(detail)
    if isinstance(detail, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Reason(_HANGS_UP)
    if isinstance(detail, ssl.SSLCertVerificationError):
        why = detail.verify_message or text
        return Reason(
            f"the broker's certificate is not to be trusted ({why}); check the CA file and the host's name", True
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return Reason("no TLS is spoken there; use mqtt:// or the broker's TLS port", True)
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
        return Reason("the broker wants a client certificate; name one and its key", True)
    if "ALERT" in text and ("CA" in text or "CERT" in text or "DECRYPT" in text):
        return Reason(
            "the broker refuses this client's certificate; have it signed by the CA that the broker trusts", True
        )
    return Reason(f"TLS failed ({text.lower()})")


def tls_context(address: Address, tls: TlsOptions) -> ssl.SSLContext | None:
    """What proves both ends to each other; None for ``mqtt://``. Reads files.

    Raises:
        PinholeError: if a certificate or key cannot be read, or is given for an address without TLS.
    """
    if address.scheme != "mqtts":
        if tls != TlsOptions():
            raise PinholeError(f"{address.url}: certificates need TLS; use mqtts:// or leave them out")
        return None
    if (tls.certificate_file is None) != (tls.key_file is None):
        raise PinholeError(f"{address.url}: a client certificate needs its key and the key its certificate; give both")
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:
        raise _unreadable(tls.ca_file, "CA certificates", error) from error
    if tls.certificate_file is not None:
        try:
            # Asked for a passphrase, OpenSSL would read the terminal and stop the whole program.
            context.load_cert_chain(tls.certificate_file, tls.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise _unreadable(tls.certificate_file, f"a certificate with its key ({tls.key_file})", error) from error
    return context


def read_password(address: Address, path: Path | None) -> str | None:
    """The first line of a password file; None without one.

    Raises:
        PinholeError: if it cannot be read, is empty, open to others, or there is no user for it.
    """
    if path is None:
        return None
    if address.username is None:
        raise PinholeError(f"{address.url}: a password needs a user; write {address.scheme}://USER@{address.host}")
    try:
        if path.stat().st_mode & 0o077:
            raise PinholeError(f"{path} can be read by others than its owner; chmod 600 {path}")
        line = path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "a password", error) from error
    if not line:
        raise PinholeError(f"{path} is empty; write the password on its first line")
    return line


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _unreadable(path: Path | None, what: str, error: Exception) -> PinholeError:
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return PinholeError(f"{path or 'the CA store of the system'} cannot be read as {what} ({why.lower()})")
