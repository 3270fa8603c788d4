"""The second stage: from the facts of all cases to fingerprint.json."""
