"""The TIFF reader: a multi-page file, or a folder of numbered files that make up a stack."""
