"""The first stage: source files to the raw store, each case on one grid."""
