"""The places where tasks run: this process, local workers, jobs of a batch system, a running scheduler."""
