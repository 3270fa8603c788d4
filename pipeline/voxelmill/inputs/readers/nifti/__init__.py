"""The reader for NIfTI-1, NIfTI-2 and Analyze 7.5 pairs."""
