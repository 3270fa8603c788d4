"""Numerical kernels on arrays, NumPy or CuPy. They know no files, stores or Dask."""
