"""The third stage: fingerprint and settings to plan.json, every decision of a run."""
