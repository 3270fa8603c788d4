"""Shares of a stage: what `--share i/n` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from voxelmill.basics.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The `index`-th, from 1, of `count` shares of a stage."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """For the names of this share's files."""
        return f"-{self.index}of{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item."""
        return items[self.index - 1 :: self.count]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share that a text such as "2/4" names.

        Raises
        ------
        ConfigError
            If it names none.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--share is {text!r}: needs i/n with i from 1 to n, such as 2/4.")
        return cls(int(found[1]), int(found[2]))
