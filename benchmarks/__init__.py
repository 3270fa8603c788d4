"""How fast voxelmill is, against the tools people use today: ``python -m benchmarks SUITE [--quick]``."""
