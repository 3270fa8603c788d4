"""MetaImage and NRRD, whose grids ITK understands, and the segmentations of 3D Slicer."""
