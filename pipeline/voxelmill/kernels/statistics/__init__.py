"""Exact facts of a channel, slab by slab: values, histograms, where the foreground lies."""
