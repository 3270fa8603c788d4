"""Paths in, lazily read volumes out; `formats` lists every format and the module that reads it."""
