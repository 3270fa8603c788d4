"""A process that has imported everything the command needs, and forks for each call, which saves the imports.

In: one line of JSON per command on standard input, with its folder, its words, and the files for its two
outputs. Out: the fork's process id, and its exit status when it has ended. A fork continues like the console
script, with its own `sys.argv`, folder and outputs, and ends like any Python process.
"""

import gc
import importlib
import json
import os
import sys
import warnings
from pathlib import Path

LAZY = (
    "cli.show_files",
    "cli.tables",
    "runs.job",
    "runs.repair_damage",
    "runs.run_function",
    "runs.status",
    "runtime.cluster.workers_here",
    "stages.planning.plan_reuse",
)
"""Modules that `voxelmill.cli.commands` imports inside functions; they import everything else."""


def become_next() -> bool:
    """Fork for each command; return true in the fork, and false here when no more commands come."""
    for line in sys.stdin:
        command = json.loads(line)
        if (pid := fork()) == 0:
            become(**command)
            return True
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return False


def fork() -> int:
    """Fork without Python's warning about threads: only OpenBLAS has some, and it stops them itself."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return os.fork()


def become(folder: str, words: list[str], outputs: list[str]) -> None:
    """Set folder, arguments and outputs of this process to those of a command."""
    os.chdir(folder)
    sys.argv[1:] = words
    for number, path in enumerate([os.devnull, *outputs]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)


if __name__ == "__main__":
    del sys.argv[0]  # the next one is the console script's path
    sys.path[0] = str(Path(sys.argv[0]).parent)
    from voxelmill.cli.commands import main

    for name in LAZY:
        importlib.import_module(f"voxelmill.{name}")
    gc.freeze()  # else a garbage collection in a fork would copy the memory of all imports
    if become_next():
        sys.exit(main())
