"""The DICOM reader: series of single-slice files, and multi-frame files."""
