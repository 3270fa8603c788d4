"""The rooms of the package: their order, their sizes, and which of them may know which library."""

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import voxelmill

PACKAGE = Path(voxelmill.__file__).parent

# A module imports modules of its own room and of the rooms above it. A file in the root is a row, too.
ROOMS = [
    "nanny",
    "basics",
    "config",
    "kernels",
    "kernels.statistics",
    "kernels.resampling",
    "storage",
    "inputs",
    "inputs.readers.shared",
    "inputs.readers.nifti",
    "inputs.readers.itk",
    "inputs.readers.dicom",
    "inputs.readers.tiff",
    "inputs.readers.ome_zarr",
    "inputs.readers",
    "inputs.sources",
    "runtime",
    "runtime.cluster",
    "stages",
    "stages.raw_store",
    "stages.ingest",
    "stages.fingerprint",
    "stages.planning",
    "stages.preprocessing",
    "runs",
    "cli",
    "worker",
    "__main__",
]

MOST_IN_A_FOLDER = 12
LONGEST_CHAIN = 12
"""Modules, one importing the next."""

# Where a library may be imported: a module, or a room with all rooms in it.
ALLOWED = {
    "dask": {"runtime"},
    "distributed": {"runtime"},
    "dask_jobqueue": {"runtime.cluster.batch_queues"},
    "dask_cuda": {"runtime.cluster.workers_on_gpus"},
    "cupy": {"kernels.backend"},
    "cupyx": {"kernels.backend"},
    "zarr": {"storage", "inputs.readers.ome_zarr"},
    "numcodecs": {"storage.shard_files"},
    "google_crc32c": {"storage.shard_files", "inputs.sources.source_checksums"},
    "SimpleITK": {"inputs.readers", "cli.demo_dataset"},
    "nibabel": {"inputs.readers", "cli.demo_dataset"},
    "pydicom": {"inputs.readers", "cli.demo_dataset"},
    "tifffile": {"inputs.readers"},
    "torch": set(),
}

HEAVY = {"zarr", "numcodecs", "dask", "distributed", "numba", "SimpleITK", "scipy", "nibabel", "pydicom"}
HEAVY |= {"torch", "cupy"}


def module_name(path):
    """``kernels.backend`` for kernels/backend.py, ``kernels`` for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(path, types_too=True, functions_too=True):
    """Full names of all that a file imports, at its top and inside functions."""
    names, waiting = set(), [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        is_left_out = is_type_checking(node) and not types_too
        is_left_out |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not functions_too
        if not is_left_out:
            waiting += ast.iter_child_nodes(node)
    return names


@cache
def own_imports(name, types_too=True, functions_too=True):
    """Modules of this package that a module imports."""
    found = set()
    for full in imports_of(MODULES[name], types_too, functions_too):
        own = full.removeprefix("voxelmill.")
        if full != own:
            found.add(own if own in MODULES else own.rpartition(".")[0])
    return found - {name, ""}


def room(name):
    """The folder that a module lies in; a module of the package's root is its own room."""
    is_room = MODULES[name].name == "__init__.py" or "." not in name
    return name if is_room else name.rpartition(".")[0]


def test_every_module_has_a_room_and_every_room_of_the_table_modules():
    assert {room(name) for name in MODULES if name} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {""}))
def test_imports_never_point_to_the_right(name):
    wrong = [other for other in own_imports(name) if ROOMS.index(room(other)) > ROOMS.index(room(name))]
    assert wrong == []


def test_modules_of_one_room_do_not_import_each_other_in_a_circle():
    # A name from a package's own __init__ that re-exports it would be a circle through the package.
    order = list(TopologicalSorter({name: own_imports(name) for name in MODULES if name}).static_order())
    assert set(order) == MODULES.keys() - {""}


def test_a_chain_of_imports_is_short():
    graph = {name: own_imports(name, types_too=False, functions_too=False) for name in MODULES if name}
    chains = {}
    for name in TopologicalSorter(graph).static_order():
        chains[name] = [name, *max((chains[other] for other in graph[name]), key=len, default=[])]
    longest = max(chains.values(), key=len)
    assert len(longest) <= LONGEST_CHAIN, " > ".join(longest)


def test_no_folder_holds_much():
    """Of the package's root count modules and rooms, of a room its modules."""
    root = {name.partition(".")[0] for name in MODULES if name} - {"__main__"}
    files = Counter(path.parent for path in MODULES.values() if not path.name.startswith("__"))
    assert len(root) <= MOST_IN_A_FOLDER
    assert {path.name: n for path, n in files.items() if n > MOST_IN_A_FOLDER} == {}


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_a_library_is_known_to_few_modules(library):
    for name, path in MODULES.items():
        if any(full.partition(".")[0] == library for full in imports_of(path, types_too=False)):
            parts = name.split(".")
            around = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            assert around & ALLOWED[library], f"{name} imports {library}"


def test_types_alone_may_name_the_client():
    """Under TYPE_CHECKING nothing is imported, and nothing but Dask's client is asked for."""
    for name, path in MODULES.items():
        only_types = imports_of(path) - imports_of(path, types_too=False)
        others = {full for full in only_types if full.partition(".")[0] in ALLOWED}
        assert others <= {"distributed.Client"}, name


def loaded_by(statement):
    """Top-level names of the modules in memory after a statement, in a new interpreter."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split()
    )


@pytest.mark.parametrize("module", ["voxelmill", "voxelmill.cli"])
def test_importing_is_quick(module):
    loaded = loaded_by(f"import {module}")
    assert "voxelmill" in loaded
    assert loaded & HEAVY == set()


def test_public_names_are_there():
    for name in voxelmill.__all__:
        assert getattr(voxelmill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = voxelmill.nothing
