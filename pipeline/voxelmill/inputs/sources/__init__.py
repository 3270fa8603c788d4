"""Discovery of the cases in SOURCE: nnU-Net datasets, folders and manifests; pseudonyms and checksums."""
