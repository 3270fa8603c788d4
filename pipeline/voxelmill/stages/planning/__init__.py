"""The third stage: from fingerprint and settings to plan.json, which holds every decision of a run."""
