"""The command line: words in, one call of a run, tables and an exit status out."""

from voxelmill.cli.commands import main

__all__ = ["main"]
