"""Errors that a person at the command line is meant to read."""


class PinholeError(Exception):
    """Something a user can mend: the message is one line that names the thing and the mend."""


class CorruptDataError(PinholeError):
    """Received or stored bytes are not what they claim to be (truncated, flipped, foreign)."""


class UsageError(PinholeError):
    """A flag or setting that makes no sense, alone or with another; the command ends with status 2."""
