"""The configurations of nnU-Net that are planned and made, by name."""

from __future__ import annotations

from typing import Literal

Configuration = Literal["fullres", "lowres", "2d"]
