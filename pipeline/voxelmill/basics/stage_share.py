"""Shares of a stage, as `--share i/n` selects them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from voxelmill.basics.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The `index`-th of `count` shares of a stage, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """Suffix for the names of this share's files."""
        return f"-{self.index}of{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this share: every `count`-th one."""
        return items[self.index - 1 :: self.count]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the share that a text such as "2/4" names.

        Raises
        ------
        ConfigError
            If the text is not i/n with i from 1 to n.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--share is {text!r}: needs i/n with i from 1 to n, such as 2/4.")
        return cls(int(found[1]), int(found[2]))
