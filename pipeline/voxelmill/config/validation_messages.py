"""Messages for values that pydantic refuses, in the user's terms.

In: the type of a record, and pydantic's validation error. Out: one line with the value read and the value
expected. The text is made from the types, bounds, units and examples of the fields themselves. This module
knows no setting by name.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, SecretStr, ValidationError
from pydantic.fields import FieldInfo

LONGEST_VALUE = 80
"""Longest value that a message quotes, in characters; longer ones are cut."""

NUMBERS = {2: "two", 3: "three"}

NOUNS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    Path: ("the path of a file", "paths of files"),
    SecretStr: ("a secret text", "secret texts"),
    ByteSize: ("a size with its unit", "sizes with their units"),
    bool: ("true or false", "true or false, each"),
}


@dataclass(frozen=True)
class Problem:
    """The first problem that validation found in a record.

    Attributes
    ----------
    name : str
        Dotted name of the field.
    is_unknown : bool
        Whether there is no such field.
    text : str
        What was read, and what is expected.
    """

    name: str
    is_unknown: bool
    text: str

    def __str__(self) -> str:
        return f"{self.name or 'it'} {self.text}"


@dataclass(frozen=True)
class _Place:
    """The field that a message names, and the value that was read for it."""

    name: str
    annotation: Any
    field: FieldInfo | None
    value: Any


def first_problem(error: ValidationError, model: type[BaseModel], values: Any) -> Problem:
    """Return the first problem in the validation of `values` by `model`."""
    problem = error.errors()[0]
    place = _find(problem["loc"], model, values)
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return Problem(place.name, True, "is unknown")
    expects = expected(place.annotation, place.field)
    if problem["type"] == "missing" and place.value is None:
        return Problem(place.name, False, f"is missing; expected: {expects}")
    why = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else ""
    return Problem(place.name, False, f"is {_shown(place)}{why}; expected: {expects}")


def _find(way: Sequence[int | str], model: type[BaseModel], values: Any) -> _Place:
    """Follow pydantic's path to a problem through records only: a list of numbers is named as a whole."""
    names, field = list[str](), None
    annotation: Any = model
    for part in way:
        inner: Any = None
        if is_model(annotation):
            field = field_of(annotation, part)
            inner = Any if field is None else field.annotation
        else:
            inner = _of_elements(annotation)
        if inner is None:
            break
        names.append(str(part))
        annotation, values = inner, _element(values, part)
    return _Place(".".join(names), annotation, field, values)


def is_model(annotation: Any) -> bool:
    """Return whether a type is a record."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def field_of(model: type[BaseModel], name: int | str) -> FieldInfo | None:
    """Return the field with this name or alias, or None."""
    return next((f for n, f in model.model_fields.items() if name in (n, f.alias)), None)


def _of_elements(annotation: Any) -> Any:
    """Return the type of the records in a list or a table, or None if it holds none."""
    found = [a for a in get_args(annotation) if is_model(a)]
    return found[0] if found else None


def _element(values: Any, part: int | str) -> Any:
    """Return one element of the values read, or None if it is missing."""
    if isinstance(values, BaseModel):
        return getattr(values, str(part), None)
    if isinstance(values, dict):
        return values.get(part, values.get(str(part)))
    is_list = isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
    return values[part] if is_list else None


def _shown(place: _Place) -> str:
    """Return the value read, in one line; a secret is not quoted."""
    if SecretStr in (place.annotation, *get_args(place.annotation)):
        return "not usable"
    value = place.value
    text = value.isoformat() if isinstance(value, date | time) else " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."


# Descriptions of expected values


def expected(annotation: Any, field: FieldInfo | None = None) -> str:
    """Return what a field accepts, with an example."""
    examples = (field.examples or []) if field is not None else []
    return takes(annotation, field) + (f", such as {toml(examples[0])}" if examples else "")


def takes(annotation: Any, field: FieldInfo | None = None) -> str:
    """Return what a field accepts: type, choices, bounds and unit.

    Examples
    --------
    >>> takes(tuple[int, int, int])
    'three whole numbers'
    """
    unit = unit_of(field)
    bounds = field.metadata if field is not None else []
    return _type(annotation, bounds, False) + (f" ({unit})" if unit else "")


def unit_of(field: FieldInfo | None) -> str:
    """Return the unit of a field, with the axis order where it has one; empty if none is declared."""
    extra = None if field is None else field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _type(annotation: Any, bounds: Sequence[Any], plural: bool) -> str:
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(of[0], [*bounds, *of[1:]], plural)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a, bounds, plural) for a in of if a is not type(None))
    if origin is Literal:
        return _choices(of, plural)
    if origin in (tuple, list):
        return _list(of)
    if is_model(annotation):
        return "a table of " + ", ".join(f.alias or name for name, f in annotation.model_fields.items())
    if annotation in NOUNS:
        return NOUNS[annotation][plural] + _limits(bounds)
    return "a table" if origin is dict else "another value"


def _choices(values: Sequence[Any], plural: bool) -> str:
    words = [toml(value) for value in values]
    joined = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    return joined + (", each once" if plural else "")


def _list(of: Sequence[Any]) -> str:
    if len(of) == 1 or of[-1] is Ellipsis:
        return f"a list of {_type(of[0], [], True)}"
    return f"{NUMBERS.get(len(of), len(of))} {_type(of[0], [], True)}"


def _limits(metadata: Sequence[Any]) -> str:
    """Return the bounds as words that follow a noun."""
    found: dict[str, Any] = {}
    for item in metadata:
        for part in getattr(item, "metadata", [item]):  # a Field in an Annotated has metadata of its own
            found |= {k: v for k in ("gt", "ge", "le") if (v := getattr(part, k, None)) is not None}
    if "le" in found:
        return f" from {found['ge']} to {found['le']}"
    if "gt" in found:
        return f" above {found['gt']}"
    return f" not below {found['ge']}" if "ge" in found else ""


def toml(value: Any) -> str:
    """Return a value in TOML syntax.

    Examples
    --------
    >>> toml(["CT", 1.0, True])
    '["CT", 1.0, true]'
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name and the field of every setting that is not itself a table."""
    for name, field in model.model_fields.items():
        called = prefix + (field.alias or name)
        if is_model(field.annotation):
            yield from leaves(field.annotation, f"{called}.")  # type: ignore[arg-type]
        else:
            yield called, field
