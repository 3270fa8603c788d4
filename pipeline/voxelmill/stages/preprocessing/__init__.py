"""The fourth stage: from raw store and plan to the training store, one task per shard."""
