"""Temporary names: whose they are, and which of them are swept away."""

import threading
from pathlib import Path

import pytest

from voxelmill.storage.partial_files import (
    RUN,
    is_left,
    new_id,
    owner,
    partial_name,
    sweep,
    trash_name,
    working_for,
)

LIVE, DEAD = "0123456789ab", "ba9876543210"


def left(path, run, content="half", name=partial_name):
    """A file that a run left."""
    with working_for(run):
        path = name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestNames:
    @pytest.mark.parametrize("name", [partial_name, trash_name])
    def test_stands_beside_and_says_whose_it_is(self, name):
        with working_for(LIVE):
            made, again = name(Path("a/zarr.json")), name(Path("a/zarr.json"))
        assert made.parent == Path("a")
        assert made.name.startswith("zarr.json.")
        assert made != again
        assert is_left(made)
        assert owner(made) == LIVE

    def test_what_is_no_temporary_name(self):
        for name in (
            "zarr.json",
            f"a.{'0' * 32}",
            f"a.{'0' * 31}.partial",
            f"a.{'g' * 32}.trash",
            "a.partial",
        ):
            assert not is_left(Path(name))
            with pytest.raises(ValueError, match="no temporary name"):
                owner(Path(name))
        assert not is_left(Path(f"a.{'0' * 32}.partial", "0"))  # what lies inside keeps its name

    def test_names_that_no_run_is_known_for_are_of_this_process(self):
        assert owner(partial_name(Path("a"))) == owner(trash_name(Path("b"))) == RUN.get()
        assert len(new_id()) == 12
        assert new_id() != new_id()

    def test_each_thread_works_for_a_run_of_its_own(self):
        """Workers run tasks of several runs in threads; what one enters, another does not see."""
        found = {}

        def task(run):
            with working_for(run):
                barrier.wait()
                found[run] = owner(partial_name(Path("a")))

        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=task, args=(run,)) for run in (LIVE, DEAD)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {LIVE: LIVE, DEAD: DEAD}

    def test_the_run_before_comes_back(self):
        before = RUN.get()
        with working_for(LIVE), pytest.raises(RuntimeError, match="stop"), working_for(DEAD):
            raise RuntimeError("stop")
        assert RUN.get() == before


class TestSweep:
    def test_only_what_dead_runs_left(self, tmp_path):
        (tmp_path / "zarr.json").write_text("whole")
        mine = left(tmp_path / "zarr.json", LIVE)
        left(tmp_path / "zarr.json", DEAD)
        left(tmp_path / "c", DEAD, name=trash_name)
        below = left(tmp_path / "case" / "0", DEAD)
        sweep(tmp_path, frozenset({LIVE}))
        assert names(tmp_path) == [f"case/{below.name}", "zarr.json", mine.name]

    def test_folders_and_all_that_is_below(self, tmp_path):
        left(tmp_path / "case" / "image" / "c" / "0", DEAD)
        mine = left(tmp_path / "case" / "image" / "c" / "1", LIVE)
        with working_for(DEAD):
            trash = trash_name(tmp_path / "case" / "mask")
        left(trash / "c" / "0", LIVE)  # goes with the folder, whosesoever it is
        with working_for(LIVE):
            kept = trash_name(tmp_path / "other")
        inside = left(kept / "0", DEAD)  # and stays with it
        sweep(tmp_path, frozenset({LIVE}), whole=True)
        assert names(tmp_path) == sorted(str(p.relative_to(tmp_path)) for p in (mine, inside))
        assert not trash.exists()

    def test_a_link_goes_and_not_what_it_leads_to(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "0").write_text("whole")
        with working_for(DEAD):
            link = partial_name(tmp_path / "link")
        link.symlink_to(tmp_path / "data", target_is_directory=True)
        sweep(tmp_path, frozenset(), whole=True)
        assert names(tmp_path) == ["data/0"]
        assert not link.is_symlink()

    def test_nothing_there(self, tmp_path):
        sweep(tmp_path / "missing", frozenset())
        sweep(tmp_path / "missing", frozenset(), whole=True)

    def test_who_lives_is_asked_when_the_names_are_known(self, tmp_path):
        """A share that begins while another sweeps: its file is younger than a set made before."""
        late = left(tmp_path / "0", LIVE)
        left(tmp_path / "1", DEAD)

        def live():
            assert len(names(tmp_path)) == 2
            return frozenset({LIVE})

        sweep(tmp_path, live)
        assert names(tmp_path) == [late.name]

    def test_nobody_is_asked_where_nothing_is_left(self, tmp_path):
        (tmp_path / "zarr.json").write_text("whole")
        sweep(tmp_path, lambda: pytest.fail("asked"), whole=True)

    def test_what_vanishes_meanwhile(self, tmp_path):
        """Two processes sweep the same folder."""
        paths = [left(tmp_path / "case" / str(i), DEAD) for i in range(3)]

        def live():
            for path in paths:
                path.unlink()
            return frozenset()

        sweep(tmp_path, live, whole=True)
        assert names(tmp_path) == []

    def test_several_at_once(self, tmp_path):
        for i in range(200):
            left(tmp_path / str(i % 10) / str(i), DEAD)
            with working_for(DEAD):
                left(trash_name(tmp_path / str(i % 10) / "mask") / "c" / "0", DEAD)
        errors = []

        def run():
            try:
                sweep(tmp_path, frozenset(), whole=True)
            except OSError as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        sweep(tmp_path, frozenset(), whole=True)  # a folder that two empty at once may be left for the next
        assert names(tmp_path) == []
        assert sorted(path.name for path in tmp_path.iterdir()) == [str(i) for i in range(10)]
