"""Readers: a path in, a lazily read volume out. `formats` lists every format and its module."""
