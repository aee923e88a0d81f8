"""Byte streams: serial lines, KISS modems, KISS over TCP."""
