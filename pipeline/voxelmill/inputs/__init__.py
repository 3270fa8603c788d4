"""What comes in: files of every known format, and the cases that a SOURCE holds."""
