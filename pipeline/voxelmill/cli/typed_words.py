"""Adds what the user typed to an error line, beside the name that the line uses for it; terminal only.

In: the words of a command line, and an error line that names SOURCE, OUT, an option or a setting. Out: the
line with the typed words added. The errors themselves hold no typed word: they are written to logs and
reports, and a path can contain a patient's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer

Typed = Mapping[str, Sequence[str]]
"""Maps SOURCE, OUT, --plan and so on to the words typed for them; flags are left out."""

_SET, _LIMIT = "--set", "--memory-limit"
_STATE_MANY = ("--preset", "--config")


def typed_words(group: Any, argv: Sequence[str]) -> Typed:
    """Return the words typed for each argument and option of a command, before any conversion.

    Parameters
    ----------
    group : typer's group
        All commands.
    argv : sequence of str
        The words after the name of the program; they must be a valid command line.
    """
    _, rest, _ = _parse(group, argv)
    command = group.commands[rest[0]]
    found, _, _ = _parse(command, rest[1:])
    named = ((_called(p), found.get(p.name)) for p in command.params)
    words = {name: [v] if isinstance(v, str) else v for name, v in named if isinstance(v, str | list)}
    return words | ({"SOURCE": words["--source"]} if "--source" in words else {})


def _parse(command: Any, argv: Sequence[str]) -> tuple[dict[str, Any], list[str], Any]:
    parser = command.make_parser(typer.Context(command))
    parsed: tuple[dict[str, Any], list[str], Any] = parser.parse_args(list(argv))
    return parsed


def _called(parameter: Any) -> str:
    """Return the name of a parameter in messages: SOURCE, --plan."""
    name = str(max(parameter.opts, key=len))
    return name if name.startswith("-") else name.upper()


def repeat(line: str, typed: Typed, about: str = "") -> str:
    """Return an error line with the typed words added in brackets.

    A path or an option is repeated beside its first mention, a setting at the end. Words that the line
    contains already are not repeated, and text between backticks stays as it is: it is a command to copy.

    Parameters
    ----------
    line : str
        The error line.
    typed : mapping
        See `typed_words`.
    about : str
        A name whose typed word is appended even if the line does not mention it: SOURCE, for an error in a
        row of a manifest.
    """
    for word in _shown(typed):
        key = _key(word)
        stated = rf"(?<![\w.']){re.escape(key)}" + (r"(?![\w.=])" if "." in key else r"(?= was )")
        line = _append(line, f"{_SET} {word!r}") if _mention(line, stated) else line
    if setting := _mention(line, r"setting '([\w.]+)'"):
        line = _append(line, " or ".join(_origins(setting[1], typed)))
    for name, (*_, last) in typed.items():
        if name != _SET and not re.search(rf"{name}:? (is )?'?{re.escape(last)}\b", line):
            line = _repeat_word(line, name, repr(last))
    what = repr(typed[about][-1]) if about in typed else ""
    return line if what in line else f"{line} ({about}: {what})"


def _repeat_word(line: str, name: str, what: str) -> str:
    """Add a typed word beside its name.

    It goes to the end if the name is part of a phrase ("OUT's store") or of advice ("pass --workers 3").
    """
    states = r"(?= (is|begins) |[^\s]|$)" if name.startswith("-") else ""
    if mention := _mention(line, rf"(?<![\w/.-]){name}(?![\w/'=-]|\.\w){states}"):
        return line if what in line else f"{line[: mention.end()]} ({what}){line[mention.end() :]}"
    return _append(line, f"{name}: {what}") if _mention(line, rf"(?<![\w-]){name}(?!\w)") else line


def _origins(setting: str, typed: Typed) -> Iterator[str]:
    """Yield the words that a setting can come from: its own --set, --memory-limit, --preset or --config."""
    own = [word for word in _shown(typed) if f"{setting}.".startswith(f"{_key(word)}.")]
    if own:
        yield f"{_SET} {own[-1]!r}"
    elif setting == "memory_limit" and _LIMIT in typed:
        yield f"{_LIMIT} {typed[_LIMIT][-1]!r}"
    else:
        yield from (f"{name} {typed[name][-1]!r}" for name in _STATE_MANY if name in typed)


def _shown(typed: Typed) -> list[str]:
    """Return the typed settings, without the salt of pseudonyms, which is a secret."""
    return [word for word in typed.get(_SET, ()) if "salt" not in word]


def _key(word: str) -> str:
    return word.partition("=")[0].strip()


def _mention(line: str, pattern: str) -> re.Match[str] | None:
    # An odd number of backticks before a match means that it lies within a command to copy.
    found = (m for m in re.finditer(pattern, line) if line.count("`", 0, m.start()) % 2 == 0)
    return next(found, None)


def _append(line: str, what: str) -> str:
    return line if what in line else f"{line} ({what})"
