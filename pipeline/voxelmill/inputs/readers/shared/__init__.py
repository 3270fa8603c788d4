"""Code shared by several formats: packed voxels, compression, axes with units, uneven slices."""
