"""The versions of scheduler and workers, compared with this process: pickled tasks and results need the same.

In: a client. Out: None, or one line with both versions. voxelmill must have the same version; Python and
NumPy may differ in the last number. A scheduler computes nothing and needs no NumPy. Dask checks the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from distributed import Client

PARTS = {"voxelmill": None, "Python": 2, "NumPy": 2}
"""How many numbers of a version must agree; None for the whole version."""

# Text for `eval`, which every worker has: a function would need its package, which may be missing there.
_ASK = """{
    "Python": __import__("platform").python_version(),
    "NumPy": __import__("importlib.util").util.find_spec("numpy") and __import__("numpy").__version__,
    "voxelmill": __import__("importlib.util").util.find_spec("voxelmill")
        and __import__("voxelmill").__version__,
}"""


@cache
def these() -> str:
    """Return the versions of this process that must agree, as one text; a task carries it to its worker."""
    return ", ".join(f"{package} {'.'.join(_parts(version, package))}" for package, version in ask().items())


@cache
def ask() -> dict[str, str]:
    """Return the versions of this process by package."""
    found: dict[str, str] = eval(_ASK)
    return found


class Versions:
    """Compares the scheduler, and each worker once, with this process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ours = ask()
        self._known: set[str] = set()

    def scheduler_differs(self) -> str | None:
        """Return one line if the scheduler has other versions, else None."""
        return self._differs(
            "the scheduler", self._client.run_on_scheduler(eval, _ASK), ("voxelmill", "Python")
        )

    def worker_differs(self, workers: Iterable[str] | None = None) -> str | None:
        """Return one line for the first worker with other versions, else None.

        `workers` are addresses, None for all workers. Workers that fit are remembered, and not asked again.
        """
        new = None if workers is None else sorted(set(workers) - self._known)
        if new == []:
            return None
        # A worker that has left meanwhile answers with an error, and is skipped.
        answers = self._client.run(eval, _ASK, workers=new, on_error="return")
        for address, theirs in answers.items():
            if isinstance(theirs, dict):
                if line := self._differs(f"worker {address}", theirs, PARTS):
                    return line
                self._known.add(address)
        return None

    def _differs(self, who: str, theirs: Mapping[str, Any], packages: Iterable[str]) -> str | None:
        for package in packages:
            found, ours = theirs[package], self._ours[package]
            if found is None:
                return f"{who} has no {package}, this process has {ours}. Install that there."
            if _parts(found, package) != _parts(ours, package):
                return f"{who} has {package} {found}, this process has {ours}. Use the same in both."
        return None


def _parts(version: str, package: str) -> list[str]:
    return version.split(".")[: PARTS[package]]
