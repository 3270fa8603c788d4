"""The command line: parses the words, calls the pipeline, prints tables and sets the exit status."""

from voxelmill.cli.commands import main

__all__ = ["main"]
