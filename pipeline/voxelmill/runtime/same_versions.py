"""Whether scheduler and workers have what this process has: tasks are pickled, and bits depend on it.

In: a client. Out: nothing, or one line with both versions. voxelmill has to be the same, Python and NumPy but
for their last number; a scheduler computes nothing, and needs no NumPy. What Dask itself needs, it checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from distributed import Client

PARTS = {"voxelmill": None, "Python": 2, "NumPy": 2}
"""How many numbers of a version count."""

# A text that `eval` takes anywhere: a function would be asked for in a package that may not be there.
_ASK = """{
    "Python": __import__("platform").python_version(),
    "NumPy": __import__("importlib.util").util.find_spec("numpy") and __import__("numpy").__version__,
    "voxelmill": __import__("importlib.util").util.find_spec("voxelmill")
        and __import__("voxelmill").__version__,
}"""


@cache
def these() -> str:
    """What of this process's versions counts, as one text: a task that bears another is not for it."""
    return ", ".join(f"{package} {'.'.join(_parts(version, package))}" for package, version in ask().items())


@cache
def ask() -> dict[str, str]:
    """Versions of this process, by package."""
    found: dict[str, str] = eval(_ASK)
    return found


class Versions:
    """Compares those who come with this process, each once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ours = ask()
        self._known: set[str] = set()

    def scheduler_differs(self) -> str | None:
        """One line, where the scheduler does not fit."""
        return self._differs(
            "the scheduler", self._client.run_on_scheduler(eval, _ASK), ("voxelmill", "Python")
        )

    def worker_differs(self, workers: Iterable[str] | None = None) -> str | None:
        """One line for the first that does not fit of some workers, or of all; those that fit are known."""
        new = None if workers is None else sorted(set(workers) - self._known)
        if new == []:
            return None
        # One that is gone meanwhile answers with an error, and is not looked at.
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
