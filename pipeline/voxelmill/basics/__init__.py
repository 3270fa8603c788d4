"""Basic types that every other package uses: errors, boxes and grids, volumes, paths. They open no file."""
