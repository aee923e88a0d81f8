"""Bit-exact entropy coding: integer networks, coding tables, range coder."""
