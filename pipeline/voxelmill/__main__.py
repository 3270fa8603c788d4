"""``python -m voxelmill`` is the command line."""

from voxelmill.cli import main

main()
