"""The fourth stage: raw store and plan to the training store, one shard a task."""
