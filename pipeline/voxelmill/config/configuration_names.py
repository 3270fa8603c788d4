"""Names of the nnU-Net configurations that a plan can contain."""

from __future__ import annotations

from typing import Literal

Configuration = Literal["fullres", "lowres", "2d"]
