"""The readers for MetaImage and NRRD, with ITK's conventions, and for segmentations of 3D Slicer."""
