"""DICOM: series of files, and files of many frames."""
