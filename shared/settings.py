"""Settings from a TOML file: one table per command, keys named like the command's options.

For example::

    [send]
    to = "tcp://ground.example:5555"
    budget = "9.6kbps"

    [compress]
    max-bytes = 2000

Which keys exist is known only to the command that reads them, so this module checks the file's form and the command
line checks the keys.
"""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from shared.errors import PinholeError

Setting = str | int | float | bool | list["Setting"] | dict[str, "Setting"]
"""A value that a settings file may hold; dates and times have no use here and are refused."""

Table = dict[str, Setting]
"""A command's settings; a nested table is that of a command within it."""


def load_settings(path: Path) -> dict[str, Table]:
    """Read a settings file.

    Args:
        path: a TOML 1.0 file whose top level holds nothing but tables.

    Returns:
        The tables by command, dashes in keys replaced by underscores.

    Raises:
        PinholeError: if the file cannot be read, is no TOML, or has a value where a table must be.
    """
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PinholeError(f"cannot read settings {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PinholeError(f"settings {path} are no TOML file: {error}; mend it there") from error
    tables: dict[str, Table] = {}
    for name, value in parsed.items():
        if not isinstance(value, dict):
            raise PinholeError(f"settings {path}: '{name}' stands outside a table; put it under its command, as [send]")
        tables[name] = _checked_table(value, f"{path}: [{name}]")
    return tables


def refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise if a key is not known, naming it and its nearest neighbour.

    Raises:
        PinholeError: naming the first unknown key.
    """
    allowed = sorted(known)
    for key in keys:
        if key not in allowed:
            near = get_close_matches(key, allowed, n=1)
            mend = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(allowed)}"
            raise PinholeError(f"{where}: unknown setting '{key}'; {mend}")


def _checked_table(table: Mapping[str, object], where: str) -> Table:
    """Copy a table with underscores in its keys, leaving out nothing and letting nothing odd in."""
    checked: Table = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in checked:
            raise PinholeError(f"{where}: '{key}' is set twice; keep one of the spellings")
        checked[name] = _checked(value, f"{where} {key}")
    return checked


def _checked(value: object, where: str) -> Setting:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list):
        return [_checked(item, where) for item in value]
    if isinstance(value, dict):
        return _checked_table(value, where)
    raise PinholeError(f"{where}: a {type(value).__name__} is no setting; write it as a string")
