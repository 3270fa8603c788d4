"""Resampling of images and labels to another grid with the same axes: banded matrices, compiled passes."""
