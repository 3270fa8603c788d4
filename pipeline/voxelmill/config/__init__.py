"""Settings: their fields, how they are loaded and printed, and the messages for wrong values."""
