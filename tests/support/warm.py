"""A process that has imported what the command needs, and forks into it: a start without imports.

In: on standard input a line for each command, with its folder, its words, and the files for its two outputs.
Out: the fork's pid, and its exit status once it ended. A fork goes on from here as the console script does, a
process of its own with its own `sys.argv`, folder and outputs, and ends as any Python does.
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
"""What `voxelmill.cli.commands` imports within its functions; all else comes with these."""


def become_next() -> bool:
    """Fork for each command: true in the fork, false where no more commands come."""
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
    """Python warns of all threads; only OpenBLAS has some here, and stops them before a fork itself."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return os.fork()


def become(folder: str, words: list[str], outputs: list[str]) -> None:
    """Take a command's place."""
    os.chdir(folder)
    sys.argv[1:] = words
    for number, path in enumerate([os.devnull, *outputs]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)


if __name__ == "__main__":
    del sys.argv[0]  # the console script's path is the next
    sys.path[0] = str(Path(sys.argv[0]).parent)
    from voxelmill.cli.commands import main

    for name in LAZY:
        importlib.import_module(f"voxelmill.{name}")
    gc.freeze()  # or each fork, when it collects garbage, copies all that was imported
    if become_next():
        sys.exit(main())
