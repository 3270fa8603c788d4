"""The direction of imports, and which module may know which library."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import voxelmill

PACKAGE = Path(voxelmill.__file__).parent

# A module imports modules of its own row and of the rows above it. The last row whose name fits decides.
RANKS = [
    {"errors", "geometry", "machine", "stages", "partials", "traces", "enclosed", "nanny", "paths"},
    {
        "volume",
        "model",
        "wording",
        "dicom_config",
        "config",
        "config_text",
        "spacing",
        "patch",
        "share",
        "processes",
    },
    {"pseudonyms", "manifest"},
    {"kernels"},
    {"readers", "case_files", "pairs", "raw_dataset", "folder_source", "manifest_source", "sources"}
    | {"checksum", "layout", "memory", "blocks", "document", "dataset_json", "dataset_list"},
    {"phantoms"},
    {"fingerprint", "incoming", "lease", "places", "records", "regrid"},
    {"plan"},
    {"planner", "plausible"},
    {"shards", "shard_check", "store"},
    {"progress", "graph"},
    {
        "cases",
        "remarks",
        "training",
        "ingest",
        "align",
        "statistics",
        "preprocess",
        "resume",
        "cluster",
        "report",
    },
    {"status", "summary", "verify", "frozen", "apart", "disk", "rehearsal", "file_names"},
    {"account"},
    {"pipeline"},
    {"options", "repair", "typed", "terminal", "interrupts", "running"},
    {"cli", "worker"},
    {"__main__"},
]

# Where a library may be imported: the module, or every module of a folder.
ALLOWED = {
    "dask": {"graph", "cluster"},
    "distributed": {"graph", "cluster"},
    "dask_jobqueue": {"cluster.queues"},
    "dask_cuda": {"cluster.gpus"},
    "cupy": {"kernels.backend"},
    "cupyx": {"kernels.backend"},
    "zarr": {"store", "readers.ome_zarr", "readers.multiscales"},
    "numcodecs": {"shards"},
    "google_crc32c": {"shards", "checksum"},
    "SimpleITK": {"readers", "phantoms"},
    "nibabel": {"readers", "phantoms"},
    "pydicom": {"readers", "phantoms"},
    "tifffile": {"readers"},
    "torch": set(),
}

HEAVY = {"zarr", "numcodecs", "dask", "distributed", "numba", "SimpleITK", "scipy", "nibabel", "pydicom"}
HEAVY |= {"torch", "cupy"}


def module_name(path):
    """``kernels.crop`` for kernels/crop.py, ``kernels`` for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@cache
def imports_of(path, types_too=True):
    """Full names of all that a file imports, at its top and inside functions."""
    names, waiting = set(), [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if types_too or not is_type_checking(node):
            waiting += ast.iter_child_nodes(node)
    return names


def own_imports(name):
    """Modules of this package that a module imports."""
    found = set()
    for full in imports_of(MODULES[name]):
        own = full.removeprefix("voxelmill.")
        if full != own:
            found.add(own if own in MODULES else own.rpartition(".")[0])
    return found - {name, ""}


def rank(name):
    top = name.partition(".")[0]
    return next((i for i, row in enumerate(RANKS) if top in row), None)


def test_every_module_has_a_rank_and_every_name_of_the_table_a_module():
    assert [name for name in MODULES if name and rank(name) is None] == []
    assert set().union(*RANKS) == {name.partition(".")[0] for name in MODULES if name}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {""}))
def test_imports_never_point_to_the_right(name):
    wrong = [other for other in own_imports(name) if rank(other) > rank(name)]
    assert wrong == []


def test_modules_of_one_rank_do_not_import_each_other_in_a_circle():
    # A name from a package's own __init__ that re-exports it would be a circle through the package.
    order = list(TopologicalSorter({name: own_imports(name) for name in MODULES if name}).static_order())
    assert set(order) == MODULES.keys() - {""}


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_a_library_is_known_to_few_modules(library):
    for name, path in MODULES.items():
        if any(full.partition(".")[0] == library for full in imports_of(path, types_too=False)):
            assert {name, name.partition(".")[0]} & ALLOWED[library], f"{name} imports {library}"


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
