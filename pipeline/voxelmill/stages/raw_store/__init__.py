"""A case in the raw store: stored values, grid, record, notes and non-zero mask."""
