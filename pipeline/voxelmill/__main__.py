"""Entry point of ``python -m voxelmill``, which is the command line."""

from voxelmill.cli.commands import main

main()
