"""Files in OUT: atomic writes, groups, shards and their shapes, and the lease. This package knows no case."""
