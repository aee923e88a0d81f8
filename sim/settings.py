"""Tables of a TOML file into frozen dataclasses, with one clear error for what does not fit."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from shared.errors import PinholeError
from shared.settings import refuse_unknown

Settings = TypeVar("Settings")


def from_table(kind: type[Settings], table: Mapping[str, object], where: str) -> Settings:
    """Build a dataclass of plain values (numbers, text, truth values, lists of integers) from a TOML table.

    Args:
        kind: the dataclass.
        table: its values by name; names left out keep their defaults.
        where: how to name the table in errors, for example ``drone.toml [forward]``.

    Raises:
        PinholeError: if a name is unknown or missing, or a value is of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    refuse_unknown(table, fields, where)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise PinholeError(f"{where}: setting '{name}' is missing; add it")
    values = {name: _checked(hints[name], value, f"{where}: {name}") for name, value in table.items()}
    return kind(**values)


def _checked(hint: Any, value: object, where: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise PinholeError(f"{where} is {value!r}; give a list")
        return tuple(_checked(get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        names = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
        raise PinholeError(f"{where} is {value!r}; give {names.get(hint, hint.__name__)}")
    return value
