"""The stages of a run, one folder each, and the raw store that they share."""
