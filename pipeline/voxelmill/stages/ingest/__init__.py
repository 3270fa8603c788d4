"""The first stage: from source files to the raw store, each case on one grid."""
