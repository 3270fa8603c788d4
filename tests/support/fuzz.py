"""Fuzzing: damaged files of every format must be read, or refused with one of voxelmill's errors.

`python tests/support/fuzz.py --format nifti --examples 20000 --seed 1` prints the results. Examples run in a
child process that reports each one, so a crash, a hang or excessive memory is noticed, and a new child
continues after it. Format, seed and number reproduce an example: ``--first 17 --examples 1``.
"""

import argparse
import contextlib
import json
import math
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10.0
"""CPU seconds that an example may take; a child that is silent for six times as long counts as hanging."""

MOST_BYTES = 64 * 2**20
"""Bytes of resident memory that an example may take, in addition to four of its slices."""

SPARSE = {"ome_zarr", "nrrd", "tiff", "stack"}
"""Formats in which a small file can hold a large volume: missing chunks, or bzip2's ratios of a million."""

PLENTY = 32 * 2**20
"""Bytes of a volume that are read at most."""

MOST_VOXELS = 2**18
"""Voxels of a sparse volume above which only a box of it is read."""


HEADS = (".json", ".zattrs", ".zarray", ".zgroup", ".mhd", ".nhdr", ".hdr", ".hdr.gz")
"""Name endings of small files that describe other files."""


@dataclass
class Figures:
    """The results of the examples of one format."""

    examples: int = 0
    kinds: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    most_bytes: int = 0
    problems: list = field(default_factory=list)

    def add(self, line):
        self.examples += 1
        self.kinds[line["kind"]] += 1
        self.slowest = max(self.slowest, line["seconds"])
        self.most_bytes = max(self.most_bytes, line["bytes"])
        if line["problem"]:
            self.problems.append((line["number"], line["problem"]))

    def __str__(self):
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common())
        worst = f"slowest {self.slowest:.2f} s, most memory {self.most_bytes >> 20} MiB"
        return f"{self.examples} examples: {kinds}; {worst}, {len(self.problems)} problems"


def run(kind, examples, seed=0, first=0, keep=None):
    """Make and read examples in child processes; return their `Figures`."""
    figures, at = Figures(), first
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        while at < first + examples:
            words = [kind, seed, at, first + examples, folder, keep or ""]
            at = _follow(
                [sys.executable, __file__, "--child", *map(str, words)], at, figures, Path(folder) / "said"
            )
    return figures


def _follow(command, first, figures, said):
    """Collect the reports of a child; return the number of the next example."""
    at = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in _lines(child):
            if line["number"] < 0:
                raise RuntimeError(line["problem"])
            figures.add(line)
            at = line["number"] + 1
        if child.wait() != 0:
            last = said.read_bytes()[-300:] if said.exists() else b""
            fault = f"the process ended with {child.returncode}: {last!r}"
            figures.add({"number": at, "kind": "crash", "seconds": 0, "bytes": 0, "problem": fault})
            at += 1
            if at == first + 1 and len(figures.problems) > 50:
                raise RuntimeError("nothing but crashes")
    return at


def _lines(child):
    """Yield the reports of a child until it ends or is silent for too long; then it is killed."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdout, selectors.EVENT_READ)
        while waiting.select(6 * SECONDS) and (line := child.stdout.readline()):
            yield json.loads(line)
    if child.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()


def main():
    """Run the command line, or the child."""
    if sys.argv[1:2] == ["--child"]:
        return _child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default=None)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", help="folder for the sources of what went wrong")
    words = parser.parse_args()
    kinds = [words.format] if words.format else FORMATS
    for kind in kinds:
        figures = run(kind, words.examples, words.seed, words.first, words.keep)
        print(f"{kind}: {figures}", flush=True)
        for number, problem in figures.problems:
            print(f"  example {number}: {problem}", flush=True)
    return 0


FORMATS = [
    "nifti",
    "metaimage",
    "nrrd",
    "segments",
    "npy",
    "dicom",
    "tiff",
    "stack",
    "ome_zarr",
    "manifest",
    "dataset",
    "beside",
]


# In the child


def _child(kind, seed, first, stop, folder, keep):
    from fuzz_seeds import make

    warnings.simplefilter("always", append=True)
    sources = make(kind, Path(folder) / "seeds")
    for source in sources:  # load libraries first: their memory and time belong to no example
        _read(kind, source)
    answers = os.fdopen(os.dup(1), "w")
    said = Path(folder) / "said"
    os.dup2(os.open(said, os.O_CREAT | os.O_TRUNC | os.O_RDWR), 1)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 2**32,) * 2)
    said.write_bytes(b"")
    for number in range(int(first), int(stop)):
        place = Path(folder) / "example"
        source = _make(kind, sources, random.Random(f"{seed} {kind} {number}"), place)
        line = {"number": number, **_judge(kind, source, said)}
        if line["problem"] and keep:
            shutil.copytree(place, Path(keep) / f"{kind}-{number}", dirs_exist_ok=True)
        print(json.dumps(line), file=answers, flush=True)
    return 0


def _make(kind, sources, rng, place):
    """Copy a random source and damage one of its files, sometimes two."""
    from fuzz_mutations import damage, rename

    shutil.rmtree(place, ignore_errors=True)
    source = rng.choice(sources)
    shutil.copytree(source.parent, place)
    if kind == "stack" and rng.random() < 0.8:
        for _ in range(rng.choice([1, 1, 2, 3])):
            rename(rng, place)
        return place / source.name
    files = [
        p for p in sorted(place.rglob("*")) if p.is_file() and (kind != "dataset" or p.suffix == ".json")
    ]
    heads = [p for p in files if p.name.endswith(HEADS)]
    for _ in range(rng.choice([1, 1, 1, 2])):
        path = rng.choice(heads if heads and rng.random() < 0.8 else files)
        path.write_bytes(damage(rng, path.read_bytes(), path))
    return place / source.name


def _judge(kind, source, said):
    """Read an example; return its result, seconds and bytes, and what is wrong with them."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak memory
    before, start, said_before = _status("VmHWM"), time.process_time(), said.stat().st_size
    allowed, problem = MOST_BYTES, None
    try:
        found, allowed = _read(kind, source)
    except Exception as error:
        found, problem = _blame(error)
    seconds, taken = time.process_time() - start, max(0, _status("VmHWM") - before)
    if seconds > SECONDS:
        problem = f"took {seconds:.1f} s"
    if taken > allowed:
        problem = f"took {taken >> 20} MiB of memory"
    if (news := said.read_bytes()[said_before:]) and b"panicked at" not in news:  # by Rust's own runtime
        problem = f"said: {news[-300:]!r}"
    if found == "impossible":
        problem = "a volume that the file cannot hold was opened"
    return {"kind": found, "seconds": seconds, "bytes": taken, "problem": problem}


def _blame(error):
    from voxelmill.basics.errors import VoxelmillError

    if not isinstance(error, VoxelmillError):
        where = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "voxelmill" in f.filename]
        return type(error).__name__, f"{type(error).__name__}: {str(error)[:200]} at {' '.join(own[-3:])}"
    text = str(error)
    wrong = "secret" in text.lower() or "\n" in text or len(text) > 4000
    return type(error).__name__, f"message: {text[:300]!r}" if wrong else None


def _read(kind, source):
    """Read a source as a stage does, up to a limit; return a word for the result, and the allowed bytes."""
    from voxelmill.inputs.readers.formats import open_volume
    from voxelmill.inputs.sources.discover import discover

    if kind in ("manifest", "dataset", "beside"):
        discover(source)
        return "opened", MOST_BYTES
    spacing = (2.5, 0.8, 0.7) if kind in ("npy", "tiff", "stack") else None
    volume = open_volume(source, spacing=spacing, is_label=kind == "segments")
    if volume.slice_bytes > MOST_BYTES or volume.channels > 2**16:
        return "large" if kind in SPARSE else "impossible", MOST_BYTES
    if kind in SPARSE and math.prod(volume.geometry.shape) > MOST_VOXELS:
        _read_box(volume)
        return "long", MOST_BYTES
    allowed = MOST_BYTES + 4 * volume.slice_bytes
    found = 0
    with contextlib.closing(volume.slabs(max(1, min(volume.step, PLENTY // volume.slice_bytes)))) as slabs:
        for slab in slabs:
            found += int(slab.data.nbytes)
            if found > PLENTY:
                return "long", allowed
    _read_box(volume)
    return "opened", allowed


def _read_box(volume):
    from voxelmill.basics.geometry import Box

    start = [n // 2 for n in volume.geometry.shape]
    volume.read(
        Box(tuple(start), tuple(min(s + 4, n) for s, n in zip(start, volume.geometry.shape, strict=True)))
    )


def _status(name):
    """Return a memory figure of this process from /proc/self/status, in bytes."""
    (line,) = (
        text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(name + ":")
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
