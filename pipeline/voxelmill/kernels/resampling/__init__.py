"""Images and labels on another grid of the same axes: banded matrices, and their compiled passes."""
