"""Settings: what a user may choose, where each value came from, and what a wrong one is told."""
