"""What things are, and what every room needs: errors, boxes and grids, volumes, paths. Opens no file."""
