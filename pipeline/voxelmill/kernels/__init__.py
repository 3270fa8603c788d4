"""Arrays in, arrays out; nothing here knows files, stores or Dask."""
