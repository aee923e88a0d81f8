"""Unsigned integers of seven bits a byte, lowest first, the top bit set on all bytes but the last (LEB128)."""

from shared.errors import CorruptDataError


def encode_varint(value: int) -> bytes:
    """Bytes of a number of 0 or more."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_length(value: int) -> int:
    """How many bytes `encode_varint` makes of a number."""
    return max(1, (value.bit_length() + 6) // 7)


def decode_varint(data: bytes, position: int, largest: int) -> tuple[int, int]:
    """Read a number from ``data`` at ``position``.

    Returns:
        The number and the position after it.

    Raises:
        CorruptDataError: if the data end within it, it is above ``largest``, or it is longer than it need be.
    """
    value = shift = 0
    while True:
        if position >= len(data):
            raise CorruptDataError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if value > largest:
            raise CorruptDataError(f"a number is above {largest}")
        if byte < 0x80:
            if byte == 0 and shift:
                raise CorruptDataError("a number is longer than it need be")
            return value, position
        shift += 7
        if shift > 63:
            raise CorruptDataError("a number never ends")
