"""Run one suite: print a table and append JSON lines to ``benchmarks/results/SUITE.jsonl``.

A suite is a module with ``run(options)`` that yields rows: dictionaries of plain values. Machine, versions
and commit are added to every line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("voxelmill", "numpy", "scipy", "numba", "scikit-image", "batchgenerators", "SimpleITK")


def circumstances() -> dict[str, Any]:
    """Return machine, versions, commit and date of a run."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    described = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "commit": described.stdout.strip() or None,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Run the suite named on the command line."""
    suites = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--quick", action="store_true", help="small volumes, one repeat")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--atlas", type=Path, help="a NIfTI label volume with many classes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for large volumes")
    options = parser.parse_args()
    about = circumstances() | {"quick": options.quick}
    results = HERE / "results" / f"{options.suite}.jsonl"
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as file:
        for row in importlib.import_module(f"benchmarks.{options.suite}").run(options):
            print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
            file.write(json.dumps(row | about) + "\n")
    return 0


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
