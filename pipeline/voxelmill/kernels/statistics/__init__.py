"""Exact facts of a channel, collected slab by slab: values, histograms, locations of the foreground."""
