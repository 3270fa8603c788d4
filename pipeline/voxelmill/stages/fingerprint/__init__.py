"""The second stage: facts of all cases to fingerprint.json."""
