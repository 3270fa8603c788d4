"""TIFF: one file of pages, or a folder of numbered files that make a stack."""
