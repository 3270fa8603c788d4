"""Benchmarks of voxelmill against other tools: ``python -m benchmarks SUITE [--quick]``."""
