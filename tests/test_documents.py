"""Pages for people agree with the repository: links and paths lead somewhere, versions are the package's."""

import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_layers import ROOMS

import voxelmill

ROOT = Path(__file__).parents[1]
PACKAGE = Path(voxelmill.__file__).parent
PAGES = sorted(page for page in ROOT.rglob("*.md") if not {".venv", ".pytest_cache"} & {*page.parts})

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
CODE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
PLACES = (
    "",
    "pipeline/voxelmill",
    "pipeline/voxelmill/inputs/readers",
    "pipeline/voxelmill/inputs/sources",
    "tests",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_modules_and_folders_exist(page):
    named = {name for name in CODE.findall((ROOT / page).read_text()) if name.endswith((".py", "/", ".sh"))}
    assert {name for name in named if not any((ROOT / place / name).exists() for place in PLACES)} == set()
    assert len(named) > 5


def test_the_rooms_stand_in_the_order_of_their_imports():
    rooms = [room.replace(".", "/") for room in ROOMS if (PACKAGE / room.replace(".", "/")).is_dir()]
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text().partition("## The rooms")[2]
        outer = [room for room in rooms if "/" not in room]
        places = [re.search(rf"`{room}[`/]", text).start() for room in outer]
        assert places == sorted(places), page


def test_the_version_is_one():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == voxelmill.__version__
    assert f'version = "{voxelmill.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_continuous_integration_is_the_script_of_the_repository():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1]["run"].startswith("bash .ci/run")


class TestPublicNames:
    def test_dir_shows_them_and_nothing_else(self):
        program = "import voxelmill; voxelmill.run; print(*dir(voxelmill))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.split() == sorted(voxelmill.__all__)

    @pytest.mark.parametrize("name", [name for name in voxelmill.__all__ if name != "__version__"])
    def test_each_has_a_docstring(self, name):
        assert len(getattr(voxelmill, name).__doc__) > 20

    def test_help_begins_with_an_example(self):
        text = pydoc.render_doc(voxelmill, renderer=pydoc.plaintext)
        assert text.index("voxelmill.run(") < text.index("FUNCTIONS")
        assert "class Report" in text
