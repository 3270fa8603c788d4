"""Bytes on disk: atomic writes, groups, shards and how they are cut, and who holds OUT. Knows no case."""
