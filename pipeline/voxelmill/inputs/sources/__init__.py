"""SOURCE in, its cases out: nnU-Net datasets, folders and manifests; pseudonyms and checksums."""
