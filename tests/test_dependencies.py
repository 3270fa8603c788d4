"""What pyproject.toml requires is what is imported, and the other way round."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Distributions whose import has another name.
IMPORTS = {
    "simpleitk": "SimpleITK",
    "python-gdcm": "gdcm",
    "cupy-cuda13x": "cupy",
    "pillow": "PIL",
    "pyyaml": "yaml",
} | {
    "pyjpegls": "jpeg_ls",
    "pylibjpeg-openjpeg": "openjpeg",
    "pylibjpeg-rle": "rle",
    "scikit-image": "skimage",
}
# What a library loads by itself, if it is there: no import of ours shows it.
PLUGINS = {
    "bokeh": "distributed",
    "imagecodecs": "tifffile",
    "pyjpegls": "pydicom",
    "pylibjpeg": "pydicom",
    "pylibjpeg-openjpeg": "pydicom",
    "pylibjpeg-rle": "pydicom",
    "python-gdcm": "pydicom",
}
TOOLS = {"mypy", "pytest-timeout", "pytest-xdist", "ruff"}
OTHER_TOOLS = {
    "batchgenerators",
    "highdicom",
    "ngff_zarr",
    "torch",
    "nnunetv2",
    "monai",
    "torchio",
    "acvl_utils",
}
OPTIONAL = {"cupy": "gpu", "cupyx": "gpu", "dask_cuda": "cuda", "dask_jobqueue": "cluster"}


def distribution(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def module(requirement):
    name = distribution(requirement)
    return IMPORTS.get(name, name.replace("-", "_"))


def imports(folder):
    """Libraries that Python files import, by statement or by name; no own and no standard modules."""
    names = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("import_module", "importorskip")
            ):
                names |= {ast.literal_eval(word) for word in node.args if isinstance(word, ast.Constant)}
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {
        "voxelmill",
        "benchmarks",
        "tests",
        "_typeshed",
    }
    return {name.partition(".")[0] for name in names} - own - set(sys.stdlib_module_names)


PACKAGE = imports("pipeline/voxelmill")
REQUIRED = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("requirement", REQUIRED, ids=distribution)
def test_what_is_required_is_imported(requirement):
    name = distribution(requirement)
    if name in PLUGINS:
        assert PLUGINS[name] in PACKAGE
        assert module(requirement) not in PACKAGE
    else:
        assert module(requirement) in PACKAGE


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_what_is_imported_is_required(name):
    if extra := OPTIONAL.get(name):
        assert name == "cupyx" or name in map(module, EXTRAS[extra])
    else:
        assert name in map(module, REQUIRED)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"test", "all"}))
def test_an_extra_names_only_what_the_package_imports(extra):
    for requirement in EXTRAS[extra]:
        assert module(requirement) in PACKAGE or PLUGINS[distribution(requirement)] in PACKAGE


def test_tests_and_benchmarks_import_what_the_test_extra_has():
    there = set(map(module, [*REQUIRED, *EXTRAS["test"]])) | set(OPTIONAL) | OTHER_TOOLS
    assert imports("tests") | imports("benchmarks") <= there


def test_the_test_extra_has_only_tools_and_what_tests_import():
    imported = imports("tests") | imports("benchmarks") | PACKAGE
    for requirement in EXTRAS["test"]:
        name = distribution(requirement)
        assert name in TOOLS or name in PLUGINS or module(requirement) in imported


def test_lower_bounds_are_stated():
    stated = [r for name, extra in EXTRAS.items() if name != "all" for r in extra] + REQUIRED
    assert [r for r in stated if ">=" not in r] == []
