"""What several formats share: packed voxels, compression, axes with units, uneven slices."""
