"""The slice and channel of each file of a TIFF stack, derived from the numbers in the file names alone.

In: file names without their endings. Out: a `Stack`, ordered by number, with notes on files set aside. No
file is opened. Messages and notes quote numbers of names, and nothing else of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

from voxelmill.basics.errors import FormatError

_ROLES = {
    **dict.fromkeys(("z", "slice", "plane"), "z"),
    **dict.fromkeys(("c", "ch", "chan", "channel"), "c"),
    **dict.fromkeys(("t", "tp", "time", "timepoint"), "t"),
}
"""Word before a number to the axis it counts: slices (z), channels (c), time points (t)."""

_WORD = re.compile(rf"(?:(?<![^\W\d_])|(?-i:(?<=[a-z])(?=[A-Z])))({'|'.join(_ROLES)})[\W_]*$", re.IGNORECASE)
"""Such a word at the end of a text, not preceded by a letter unless case separates them (``imageZ003``)."""

_PREVIEWS = {"thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews"}
_PROJECTIONS = {"max", "min", "avg", "sum", "std", "med", "mip", "proj", "projection", "montage", "overview"}

_OF_SLICES = ("z", "slice", "plane", "page", "section", "layer", "img", "image", "im", "frame", "scan")
_OF_CASES = ("case", "patient", "pat", "subject", "subj", "sub", "sample", "specimen", "mouse", "animal")
"""Words directly before a number that mark a slice, or a separate image."""


@dataclass(frozen=True)
class Stack:
    """The files of a stack.

    Attributes
    ----------
    files : tuple of tuple of int
        Index of each file in the given names, by channel, then by slice.
    numbers : tuple of int
        Numbers of the slices, ascending; the same for all channels.
    channels : tuple of int
        Numbers of the channels, ascending.
    notes : tuple of str
        Notes on files that were set aside, and on numbers that are not used.
    """

    files: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...] = (0,)
    channels: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Increment of the numbers from slice to slice: the greatest common divisor of all differences."""
        return gcd(*(after - before for before, after in pairwise(self.numbers))) or 1

    @property
    def gaps(self) -> Iterator[tuple[int, int]]:
        """Pairs of consecutive slice numbers between which slices are missing."""
        return ((a, b) for a, b in pairwise(self.numbers) if b - a > self.step)

    @property
    def length(self) -> int:
        """Number of slices from the first to the last, missing ones included."""
        return (self.numbers[-1] - self.numbers[0]) // self.step + 1


def arrange(stems: Sequence[str]) -> Stack:
    """Arrange the files of one folder as the slices and channels of a stack.

    The names differ in numbers only, ignoring case, leading zeros and separators. A number after "z" counts
    slices, after "c", "ch" or "channel" channels, after "t" time points. If none is called z, a varying
    number without a word counts slices; of several, the one that counts without a gap. Files whose names
    differ in more than numbers are set aside if they are few.

    Parameters
    ----------
    stems : sequence of str
        File names without their endings.

    Raises
    ------
    FormatError
        If names share no number, belong to several stacks, count several time points, repeat a slice, or lack
        a slice of a channel.
    """
    names = [_parse(stem) for stem in stems]
    if len(names) == 1:
        return Stack(((0,),))
    taken, notes = _choose(names)
    if len(taken) == 1:
        return Stack((tuple(taken),), notes=notes)
    found = _Counters.of([names[i] for i in taken])
    table: dict[int, dict[int, int]] = {}
    for place in taken:
        z, channel = found.slice_of(names[place]), found.channel_of(names[place])
        row = table.setdefault(channel, {})
        if z in row:
            raise FormatError(_twice(z, channel, found))
        row[z] = place
    numbers = _same_slices(table)
    channels = tuple(sorted(table))
    files = tuple(tuple(table[channel][z] for z in numbers) for channel in channels)
    return Stack(files, numbers, channels, (*notes, *found.notes))


def mean_slices(stems: Sequence[str]) -> tuple[int, int] | None:
    """Decide whether the names in a folder are slices of a stack rather than separate images.

    Numbers count slices if they stand alone (``0001``), follow a separator (``img_0001``), or follow a word
    for a slice (``z003``, ``Slice3``). After another letter (``a1``, ``patient1``, ``w0``) or a word for a
    case (``case_01``) they distinguish images.

    Returns
    -------
    first, last : int
        Indices of the first and last slice of the largest stack in `stems`.
    None
        If half of the names or more are images, or share no number.
    """
    names = [_parse(stem) for stem in stems]
    stacks = [
        group
        for group in _groups(names).values()
        if any(names[group[0]].counts_slices(i) for i in _varying([names[p] for p in group]))
    ]
    if 2 * sum(map(len, stacks)) <= len(names):
        return None
    largest = max(stacks, key=lambda group: len(group))
    by_number = sorted(largest, key=lambda i: names[i].numbers)
    return by_number[0], by_number[-1]


def counts_of(stem: str) -> str:
    """Return the numbers of a name with their axes, such as "z3 c0", and nothing else of the name."""
    name = _parse(stem)
    return " ".join(f"{role}{number}" for role, number in zip(name.roles, name.numbers, strict=True))


def without_channel(stem: str) -> str:
    """Return a key that all channels of one image share; empty if no number counts channels."""
    name = _parse(stem)
    counters = [i for i, role in enumerate(name.roles) if role == "c" and name.counts_slices(i)]
    return (
        repr((name.texts, [n for i, n in enumerate(name.numbers) if i != counters[-1]])) if counters else ""
    )


@dataclass(frozen=True)
class _Name:
    """A name split at its numbers: `texts` lie around them, `roles` are the axes they count."""

    raw: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    roles: tuple[str, ...]
    kind: str

    def counts_slices(self, i: int) -> bool:
        """Return whether varying number `i` counts slices, channels or times of one image."""
        before = self.raw[i]
        if self.roles[i]:
            # a name that is only "c1" or "t1" is more likely an image of its own
            is_bare = self.roles[i] in "ct" and not any(self.texts[:i]) and not any(self.texts[i + 1 :])
            return not (is_bare and self.texts[i] in "ct")
        word = re.search(r"[^\W\d_]+(?=[\W_]*$)", before.lower())
        is_apart = not before or not before[-1].isalpha()
        if word is None:
            return is_apart
        return word[0] not in _OF_CASES if is_apart else word[0] in _OF_SLICES


def _parse(stem: str) -> _Name:
    parts = re.split(r"(\d+)", stem)
    raw = tuple(parts[::2])
    texts = tuple(re.sub(r"[\W_]+", "", text).casefold() for text in raw)
    words = re.findall(r"[^\W\d_]+", stem.lower())
    ends = {words[0], words[-1]} if words else set()
    kind = "preview" if ends & _PREVIEWS else "projection" if ends & _PROJECTIONS else ""
    return _Name(raw, texts, tuple(map(int, parts[1::2])), tuple(map(_role, raw[:-1])), kind)


def _role(text: str) -> str:
    """Return the axis that a number counts, by the text before it; empty if unknown."""
    word = _WORD.search(text)
    return _ROLES.get(word[1].casefold(), "") if word else ""


# The files that belong to the stack


def _groups(names: Sequence[_Name]) -> dict[tuple[object, ...], list[int]]:
    """Group the indices of names that differ in numbers only."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault((name.texts, name.roles, name.kind), []).append(i)
    return found


def _choose(names: Sequence[_Name]) -> tuple[list[int], tuple[str, ...]]:
    """Return the indices of the names of one stack, and a note on files set aside."""
    groups = list(_groups(names).values())
    plain = [group for group in groups if not names[group[0]].kind] or groups
    taken = max(plain, key=len)
    others = [group for group in groups if group is not taken]
    strangers = sum(len(group) for group in plain) - len(taken)
    if (len(taken) == 1 and strangers) or (len(taken) > 1 and not names[taken[0]].numbers):
        raise FormatError(
            f"the folder holds {len(names)} TIFF files whose names share no number; slices of a stack are "
            "numbered, as in name_z003.tif or 0003.tif. Number them, or name one of the files."
        )
    if any(_is_rival(group, taken, names) for group in others) or strangers >= len(taken) > 1:
        counts = " and ".join(str(len(group)) for group in sorted(groups, key=len, reverse=True)[:2])
        raise FormatError(
            f"the folder holds TIFF files of {len(groups)} stems, {counts} of the first two; names of one "
            "stack differ in numbers alone. Give each stack its own folder, and number channels: ch0, ch1."
        )
    return taken, _aside(len(names), [names[group[0]].kind for group in others for _ in group])


def _is_rival(group: Sequence[int], taken: Sequence[int], names: Sequence[_Name]) -> bool:
    """Return whether a group of names could be another stack, or the rest of the chosen one."""
    kind = names[group[0]].kind
    if len(group) < 2 or kind == "preview":
        return False
    if kind == "projection":
        return len(group) >= len(taken)
    own, of_stack = (
        {n for i in _varying([names[p] for p in places]) for n in (names[p].numbers[i] for p in places)}
        for places in (group, taken)
    )
    return 2 * len(group) >= len(taken) or own.isdisjoint(of_stack)


def _aside(total: int, kinds: Sequence[str]) -> tuple[str, ...]:
    if not kinds:
        return ()
    called = sum(map(bool, kinds))
    words = [f"{called} called projection or preview"] if called else []
    words += [f"{len(kinds) - called} named otherwise than the slices"] if called < len(kinds) else []
    return (f"{len(kinds)} of {total} TIFF files of the folder were set aside: {', '.join(words)}",)


# The axes that the numbers count


def _varying(names: Sequence[_Name]) -> list[int]:
    """Return the positions of numbers that are not the same in all names."""
    return [i for i, column in enumerate(zip(*(n.numbers for n in names), strict=True)) if len({*column}) > 1]


@dataclass(frozen=True)
class _Counters:
    """The positions of the numbers that count slices and channels in a name; None if there is none."""

    z: int | None
    c: int | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[_Name]) -> _Counters:
        """Find the counters from the numbers that vary in the names of a stack."""
        by_role: dict[str, list[int]] = {"z": [], "c": [], "t": [], "": []}
        for i in _varying(names):
            by_role[names[0].roles[i]].append(i)
        _check_roles(names, by_role)
        unnamed = by_role[""]
        z, c = (next(iter(by_role[role]), None) for role in "zc")
        if z is None and unnamed:
            z = unnamed[0] if len(unnamed) == 1 else _without_gap(names, unnamed, c)
        unused = len([i for i in unnamed if i != z])
        note = f"{unused} more number(s) that vary in the names of the TIFF stack are not used"
        return cls(z, c, (note,) if unused else ())

    def slice_of(self, name: _Name) -> int:
        """Return the slice number of a name; 0 if slices are not counted."""
        return 0 if self.z is None else name.numbers[self.z]

    def channel_of(self, name: _Name) -> int:
        """Return the channel number of a name; 0 if channels are not counted."""
        return 0 if self.c is None else name.numbers[self.c]


def _check_roles(names: Sequence[_Name], by_role: Mapping[str, Sequence[int]]) -> None:
    """Refuse time points, and two numbers that count the same axis."""
    if by_role["t"]:
        times = {name.numbers[by_role["t"][0]] for name in names}
        raise FormatError(
            f"names of the TIFF stack count {len(times)} time points (t {min(times)} to {max(times)}); one "
            "is read. Give each time point its own folder."
        )
    for role, what in (("z", "slices"), ("c", "channels")):
        if len(by_role[role]) > 1:
            raise FormatError(
                f"names of the TIFF stack hold {len(by_role[role])} numbers that vary and are called {role}; "
                f"one can count {what}. Rename the files."
            )


def _without_gap(names: Sequence[_Name], unnamed: Sequence[int], c: int | None) -> int:
    """Return the only position whose numbers count slices without a gap or a repeat."""
    channels: dict[int, list[_Name]] = {}
    for name in names:
        channels.setdefault(0 if c is None else name.numbers[c], []).append(name)
    found = [i for i in unnamed if all(_counts([n.numbers[i] for n in of]) for of in channels.values())]
    if len(found) != 1:
        raise FormatError(
            f"{len(unnamed)} numbers vary in the names of the TIFF stack, of which {len(found) or 'none'} "
            "count slices without a gap; one is needed. Call it z, as in name_z003.tif, or give each stack "
            "its own folder."
        )
    return found[0]


def _counts(numbers: Sequence[int]) -> bool:
    """Return whether numbers are all different and evenly spaced."""
    known = sorted({*numbers})
    return len(known) == len(numbers) and len({b - a for a, b in pairwise(known)}) <= 1


def _same_slices(table: Mapping[int, Mapping[int, int]]) -> tuple[int, ...]:
    """Return the slice numbers; refuse channels that lack one."""
    numbers = tuple(sorted({z for row in table.values() for z in row}))
    for channel, row in sorted(table.items()):
        missing = [z for z in numbers if z not in row]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FormatError(
                f"channel {channel} of the TIFF stack lacks slice {missing[0]}{more}, by the numbers in the "
                "names; other channels have it. Restore the files from their source."
            )
    return numbers


def _twice(z: int, channel: int, found: _Counters) -> str:
    what = "one slice" if found.z is None else f"slice {z}"
    of = "" if found.c is None else f" of channel {channel}"
    beside = f" ({found.notes[0]})" if found.notes else ""
    return (
        f"two files of the TIFF stack are {what}{of} by the numbers in their names{beside}. Give each stack "
        "its own folder, call channels ch0 and ch1, or take the copy away."
    )
