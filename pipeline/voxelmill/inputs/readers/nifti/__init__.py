"""NIfTI-1 and NIfTI-2, and the pairs of Analyze 7.5."""
