"""``python -m voxelmill`` is the command line."""

from voxelmill.cli.commands import main

main()
