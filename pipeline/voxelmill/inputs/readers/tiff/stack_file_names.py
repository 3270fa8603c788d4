"""Which slice of which channel each file of a TIFF stack is, by the numbers in their names alone.

In: names of files, without their endings. Out: a `Stack`, which orders them by number, and what was set
aside. Opens nothing; what it says holds numbers of names, and no more of them.
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
"""What the word before a number says that it counts: slices, channels, time points."""

_WORD = re.compile(rf"(?:(?<![^\W\d_])|(?-i:(?<=[a-z])(?=[A-Z])))({'|'.join(_ROLES)})[\W_]*$", re.IGNORECASE)
"""Such a word at the end of a text: no letter is before it, unless case parts them (``imageZ003``)."""

_PREVIEWS = {"thumb", "thumbs", "thumbnail", "thumbnails", "preview", "previews"}
_PROJECTIONS = {"max", "min", "avg", "sum", "std", "med", "mip", "proj", "projection", "montage", "overview"}

_OF_SLICES = ("z", "slice", "plane", "page", "section", "layer", "img", "image", "im", "frame", "scan")
_OF_CASES = ("case", "patient", "pat", "subject", "subj", "sub", "sample", "specimen", "mouse", "animal")
"""Words right before a number that make a file a slice, or an image of its own."""


@dataclass(frozen=True)
class Stack:
    """The files of a stack.

    Attributes
    ----------
    files : tuple of tuple of int
        By channel, then by slice: place of the file in the names that were given.
    numbers : tuple of int
        Of the slices, ascending; those of all channels are the same.
    channels : tuple of int
        Numbers of the channels, ascending.
    notes : tuple of str
        What was set aside, and what of the names is not used.
    """

    files: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...] = (0,)
    channels: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """By what numbers grow from slice to slice: the largest that all differences are multiples of."""
        return gcd(*(after - before for before, after in pairwise(self.numbers))) or 1

    @property
    def gaps(self) -> Iterator[tuple[int, int]]:
        """Numbers of two slices between which one or more are missing."""
        return ((a, b) for a, b in pairwise(self.numbers) if b - a > self.step)

    @property
    def length(self) -> int:
        """Slices from the first to the last, with those that are missing."""
        return (self.numbers[-1] - self.numbers[0]) // self.step + 1


def arrange(stems: Sequence[str]) -> Stack:
    """Order the files of one folder as the slices of a stack, and perhaps its channels.

    Names are alike but for their numbers, whatever their case, zeros in front and separators. A number after
    "z" counts slices, after "c", "ch" or "channel" channels, after "t" time points. A number by itself that
    varies counts slices where none is called z; of several the one that counts without a gap. Files whose
    names differ in more than numbers are set aside where they are few.

    Parameters
    ----------
    stems : sequence of str
        Names without their endings.

    Raises
    ------
    FormatError
        If names share no number, are of several stacks, count several time points, hold a slice twice, or
        lack a slice of a channel.
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
    """Whether names in a folder of many cases mean slices of one stack, rather than an image each.

    Numbers mean slices where they stand alone (``0001``), behind a separator (``img_0001``), or behind a word
    for a slice (``z003``, ``Slice3``). Behind another letter (``a1``, ``patient1``, ``w0``) or a word for a
    case (``case_01``) they tell images apart.

    Returns
    -------
    first, last : int
        Places of two slices in the names.
    None
        Where half of the names or more mean images, or share no number.
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
    """What a name counts: every number after what it is called, such as "z3 c0"; nothing else of the name."""
    name = _parse(stem)
    return " ".join(f"{role}{number}" for role, number in zip(name.roles, name.numbers, strict=True))


def without_channel(stem: str) -> str:
    """What names of the channels of one image share; empty where no number counts channels."""
    name = _parse(stem)
    counters = [i for i, role in enumerate(name.roles) if role == "c" and name.counts_slices(i)]
    return (
        repr((name.texts, [n for i, n in enumerate(name.numbers) if i != counters[-1]])) if counters else ""
    )


@dataclass(frozen=True)
class _Name:
    """A name, cut at its numbers: `texts` are around them, `roles` say what each counts."""

    raw: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    roles: tuple[str, ...]
    kind: str

    def counts_slices(self, i: int) -> bool:
        """Whether a number that varies counts what lies in one image."""
        before = self.raw[i]
        if self.roles[i]:
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
    """What a number counts, from the text before it; empty where that does not say."""
    word = _WORD.search(text)
    return _ROLES.get(word[1].casefold(), "") if word else ""


# Which files are of the stack


def _groups(names: Sequence[_Name]) -> dict[tuple[object, ...], list[int]]:
    """Places of names that are alike but for their numbers."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault((name.texts, name.roles, name.kind), []).append(i)
    return found


def _choose(names: Sequence[_Name]) -> tuple[list[int], tuple[str, ...]]:
    """Places of the names of one stack, and a note on those that are set aside."""
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
    """Whether other names could be a stack as well, or the rest of this one."""
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


# What the numbers count


def _varying(names: Sequence[_Name]) -> list[int]:
    """Which numbers are not the same in all names."""
    return [i for i, column in enumerate(zip(*(n.numbers for n in names), strict=True)) if len({*column}) > 1]


@dataclass(frozen=True)
class _Counters:
    """Which number of a name counts slices, and which channels; None where none does."""

    z: int | None
    c: int | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[_Name]) -> _Counters:
        """From what varies in the names of a stack."""
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
        """Number of the slice; 0 where slices are not counted."""
        return 0 if self.z is None else name.numbers[self.z]

    def channel_of(self, name: _Name) -> int:
        """Number of the channel; 0 where channels are not counted."""
        return 0 if self.c is None else name.numbers[self.c]


def _check_roles(names: Sequence[_Name], by_role: Mapping[str, Sequence[int]]) -> None:
    """Refuse times, and two numbers that count the same."""
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
    """The one of several numbers that counts slices without a gap, and none twice."""
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
    """Whether numbers are all different, one step apart."""
    known = sorted({*numbers})
    return len(known) == len(numbers) and len({b - a for a, b in pairwise(known)}) <= 1


def _same_slices(table: Mapping[int, Mapping[int, int]]) -> tuple[int, ...]:
    """The numbers of the slices, which all channels have."""
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
