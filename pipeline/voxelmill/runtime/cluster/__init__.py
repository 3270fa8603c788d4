"""Where tasks run: this process, workers on this machine, jobs of a batch system, a running scheduler."""
