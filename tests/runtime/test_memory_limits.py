"""A limit on memory changes how a volume is cut, and nothing else; what cannot fit is refused."""

import json
import re
import shutil
import threading
import time

import hypothesis
import numpy as np
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
import zarr
from commands import alone, call
from datasets import manifest, stores
from distributed import LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from readers_support import training_files

from voxelmill.basics.errors import ConfigError, MemoryLimitError
from voxelmill.basics.geometry import Box
from voxelmill.basics.stage_order import Stage
from voxelmill.config.load_settings import make_config
from voxelmill.config.settings import IngestConfig
from voxelmill.inputs.sources.discover import discover
from voxelmill.kernels.resampling.axis_matrix import Rule
from voxelmill.runs.job import Job
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.memory_budget import BASE_BYTES, Memory, SlabCost
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.ingest.ingest import ingest
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.shard_pieces import Work, fit_piece
from voxelmill.stages.preprocessing import preprocess
from voxelmill.stages.raw_store.raw_case import RawCase

CASES = {"a": ((24, 40, 36), (1.0, 1.2, 1.0)), "b": ((15, 46, 50), (3.2, 0.8, 0.8))}
SETTINGS = {"target_spacing": (0.9, 0.5, 0.5), "store": {"chunk": (8, 16, 16), "shard_mib": 1}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two cases of two channels, one of them anisotropic, in one run without a limit."""
    folder = tmp_path_factory.mktemp("made")
    source = manifest(folder / "raw", CASES, ("CT", "T1"), border=4).source
    runs.process(source, folder / "out", "nnunet", **SETTINGS)
    return source, folder / "out"


def arrays_of(out):
    """Every array of the training store, by its path."""
    root = zarr.open_group(out / "training.zarr", mode="r")
    return {name: array[:] for name, array in root.members(max_depth=None) if isinstance(array, zarr.Array)}


class TestSameBytes:
    """What one volume becomes does not depend on how much of it is in memory."""

    @pytest.mark.parametrize("room", [2**19, 3 * 2**18, 2**22])
    def test_pieces_of_a_shard(self, made, tmp_path, room):
        """Limits that leave room for one chunk, some, or all of them."""
        _, out = made
        (tmp_path / "raw.zarr").symlink_to(out / "raw.zarr")
        plan = Plan.load(out)
        limit = BASE_BYTES + plan.configurations["fullres"].cases["a"].read_bytes + room
        limited = plan.settings.model_copy(update={"memory_limit": limit})
        pieces = {
            case: fit_piece(plan.work("fullres", case), Memory(limit))[0]
            for case in plan.configurations["fullres"].cases
        }
        shards = {case: row.shard for case, row in plan.configurations["fullres"].cases.items()}
        assert (pieces == shards) == (room == 2**22)
        engine = Engine(None, Reporter())
        outcomes = preprocess.preprocess(tmp_path, plan.model_copy(update={"settings": limited}), engine)
        assert [o.cause for o in outcomes if o.cause] == []
        assert training_files(tmp_path) == training_files(out)

    def test_slabs_of_the_raw_store(self, made, tmp_path):
        """Room for one slice at a time: thinner chunks, the same facts, the same training store."""
        source, out = made
        sources, engine = discover(source), Engine(None, Reporter())
        cost = RawCase(out, "a").record.label_cost
        config = make_config(
            {**Plan.load(out).settings.model_dump(), "memory_limit": BASE_BYTES + cost.bytes(1) + 4000}
        )
        (tmp_path / "logs").mkdir()
        assert [o.cause for o in ingest(sources, tmp_path, config, engine)] == [None, None]
        thin, thick = (zarr.open_array(at / "raw.zarr/a/label", mode="r") for at in (tmp_path, out))
        assert thin.chunks[0] < thick.chunks[0]
        assert np.array_equal(thin[:], thick[:])
        job = Job(tmp_path, Plan.load(out).settings)
        job.perform([Stage.FINGERPRINT], engine)
        assert (tmp_path / "fingerprint.json").read_bytes() == (out / "fingerprint.json").read_bytes()
        job.perform([Stage.PLAN, Stage.PREPROCESS], engine)
        assert training_files(tmp_path) == training_files(out)

    @pytest.mark.slow
    def test_limits_and_workers(self, tmp_path):
        """Shards of 64 MiB in real memory, from workers of different size and number."""
        source = manifest(tmp_path / "raw", {"a": ((96, 220, 240), (1.0, 1.0, 1.0))}, ("CT", "T1")).source
        found = {}
        for workers in (None, 1, 2, 3):
            for limit in (None, "270MiB", "300MiB", "1GiB") if workers != 3 else ("280MiB",):
                out = tmp_path / f"{workers}-{limit}"
                config = make_config(
                    {"memory_limit": limit, "target_spacing": (0.9, 0.6, 0.6), "store": {"shard_mib": 64}}
                )
                with connect("local" if workers else "none", workers) as client:
                    job = Job(out, config)
                    report = runs.execute(job, job.discover(source), Engine(client, Reporter()))
                assert report.failed == []
                assert limit is None or max(Plan.load(out).peak_bytes.values()) <= config.memory_limit
                found[out.name] = training_files(out)
        first = found.pop("None-None")
        assert [name for name, files in found.items() if files != first] == []

    @pytest.mark.parametrize(
        "store",
        [
            {"chunk": (8, 8, 8), "shard_mib": 1},
            {"chunk": (5, 30, 17), "shard_mib": 2},
            {"chunk": (64, 64, 64), "shard_mib": 512},
            {"compressor": "zstd", "level": 1},
        ],
    )
    def test_chunk_and_shard_shapes(self, made, tmp_path, store):
        source, out = made
        runs.process(source, tmp_path / "out", "nnunet", **{**SETTINGS, "store": store})
        expected, found = arrays_of(out), arrays_of(tmp_path / "out")
        assert expected.keys() == found.keys()
        assert [k for k in expected if not np.array_equal(expected[k], found[k])] == []


class TestInPlace:
    """Images that can be read box by box stay where they are, if that is asked for."""

    def test_the_same_voxels(self, made, tmp_path):
        source, out = made
        plain = tmp_path / "plain"
        plain.mkdir()
        rows = source.read_text().splitlines()
        names = rows[0].split(",")
        lines = [rows[0]]
        for row in rows[1:]:
            cells = dict(zip(names, row.split(","), strict=True))
            for channel in ("CT", "T1"):
                image = sitk.ReadImage(str(source.parent / cells[channel]))
                cells[channel] = f"{cells['case']}_{channel}.mhd"
                sitk.WriteImage(image, str(plain / cells[channel]), False)
            cells["label"] = str(source.parent / cells["label"])
            lines.append(",".join(cells[n] for n in names))
        (plain / "cases.csv").write_text("\n".join(lines))
        runs.process(
            plain / "cases.csv",
            tmp_path / "out",
            "nnunet",
            ingest={"copy": False, "outside": True},
            **SETTINGS,
        )
        assert training_files(tmp_path / "out") == training_files(out)
        assert not list((tmp_path / "out").glob("raw.zarr/*/image"))
        before = stores(tmp_path / "out")
        runs.process(
            plain / "cases.csv",
            tmp_path / "out",
            "nnunet",
            ingest={"copy": False, "outside": True},
            **SETTINGS,
        )
        assert stores(tmp_path / "out") == before


class TestRefused:
    def test_a_limit_below_what_a_worker_takes(self, tmp_path):
        said = r"^--memory-limit is 100 MiB; a worker takes 206 MiB before .* Pass 222MiB or more\.$"
        with pytest.raises(ConfigError, match=said):
            Job(tmp_path, make_config({"memory_limit": "100MiB"}))

    @pytest.mark.parametrize("wrong", ["much", "-1GiB", "4 parsecs", ""])
    def test_a_limit_that_is_no_size(self, wrong):
        with pytest.raises(ConfigError, match="'memory_limit' is "):
            make_config({"memory_limit": wrong})

    def test_a_slice_that_does_not_fit(self):
        cost = SlabCost(fixed=2**20, per_slice=2**30)
        with pytest.raises(MemoryLimitError) as caught:
            cost.fitting_depth((10, 20000, 30000), Memory(2**30))
        assert str(caught.value) == (
            "a slice of 20000 x 30000 voxels needs a worker of 1231MiB, --memory-limit is 1024MiB. "
            "Pass --memory-limit 1231MiB, or more."
        )

    def test_a_chunk_that_does_not_fit(self, made):
        plan = Plan.load(made[1])
        with pytest.raises(MemoryLimitError, match=r"a chunk of 8 x 16 x 16 .* Or choose .* store\.chunk\."):
            fit_piece(plan.work("fullres", "a"), Memory(BASE_BYTES + 2**10))

    def test_a_case_that_does_not_fit_is_no_bad_case(self, tmp_path):
        """The run ends before any training set is made: the limit is wrong, not the case."""
        image = sitk.Image(5000, 5000, 3, sitk.sitkFloat64)
        (tmp_path / "in").mkdir()
        sitk.WriteImage(image + 1, str(tmp_path / "in" / "wide.nii"))
        job = Job(tmp_path / "out", make_config({"memory_limit": "256MiB"}))
        with pytest.raises(
            MemoryLimitError, match=r"^case wide: a slice of 5000 x 5000 .* Pass --memory-limit"
        ):
            runs.execute(job, job.discover(tmp_path / "in"))
        assert not (tmp_path / "out" / "training.zarr").exists()


class TestShared:
    """Tasks of one worker process share its memory."""

    def test_tasks_wait_for_room(self):
        memory, held, most = Memory(BASE_BYTES + 100, threads=4), [], []

        def work(task):
            with memory.hold(task):
                held.append(task)
                most.append(sum(held))
                time.sleep(0.002)
                held.remove(task)

        threads = [threading.Thread(target=work, args=(n,)) for n in [60, 30, 50, 40, 100, 10, 130, 20] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held == []
        assert 100 < max(most) <= 130  # what is too large for all goes alone
        assert max(total for total in most if total != 130) <= 100

    def test_without_a_limit_nobody_waits(self):
        memory, inside = Memory(), threading.Barrier(3, timeout=20)

        def work():
            with memory.hold(10**15):
                inside.wait()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not inside.broken

    @pytest.mark.slow
    def test_a_worker_of_many_threads(self, tmp_path):
        source = manifest(
            tmp_path / "raw", dict.fromkeys("abcd", ((60, 200, 210), (1.0, 1.0, 1.0))), ("CT", "T1")
        ).source
        config = {"target_spacing": (0.9, 0.6, 0.6), "store": {"shard_mib": 32}}
        files = []
        for threads, limit in ((4, "320MiB"), (1, None)):
            out = tmp_path / str(threads)
            with (
                LocalCluster(1, threads_per_worker=threads, memory_limit=0, dashboard_address=":0") as local,
                local.get_client() as client,
            ):
                job = Job(out, make_config({**config, "memory_limit": limit}))
                report = runs.execute(job, job.discover(source), Engine(client, Reporter()))
            assert report.failed == []
            files.append(training_files(out))
            if limit:
                planned = Plan.load(out).peak_bytes
                assert max(planned.values()) <= 320 * 2**20
                over = {k: v for k, v in report.stage_peak_bytes.items() if v > 320 * 2**20}
                assert over == {}
        assert len(files[0]) > 5
        assert files[0] == files[1]


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_pieces_hold_the_chunks_of_a_shard_in_order(data):
    chunk = tuple(data.draw(st.sampled_from([1, 4, 8])) for _ in range(3))
    shard = tuple(c * data.draw(st.integers(1, 4)) for c in chunk)
    shape = tuple(data.draw(st.integers(1, 2 * s)) for s in shard)
    rule = Rule(tuple(data.draw(st.integers(1, 30)) for _ in range(3)), shape)
    work = Work(rule, rule, shard, chunk, label_bytes=1, has_mask=False, read_bytes=0)
    room = data.draw(st.integers(0, 2**18))
    try:
        piece, task = fit_piece(work, Memory(BASE_BYTES + room))
    except MemoryLimitError:
        return
    assert task <= room
    for start in np.ndindex(*(-(-n // s) for n, s in zip(shape, shard, strict=True))):
        box = Box(
            tuple(i * s for i, s in zip(start, shard, strict=True)),
            tuple(min((i + 1) * s, n) for i, s, n in zip(start, shard, shape, strict=True)),
        )
        pieces = [cell for part in work.pieces(box, piece) for cell in part.cells(chunk)]
        assert pieces == list(box.cells(chunk))


def test_the_limit_is_no_part_of_the_settings_token(made):
    plan = Plan.load(made[1])
    settings = plan.settings.model_copy(update={"memory_limit": 2**30, "ingest": IngestConfig(copy=False)})
    limited = plan.model_copy(update={"settings": settings})
    assert limited.token("fullres", "a") == plan.token("fullres", "a")


class TestCommandLine:
    def test_preprocess_within_less_than_was_planned(self, made, tmp_path):
        """Refused before any work; what was made before is kept."""
        out = tmp_path / "out"
        shutil.copytree(made[1], out)
        values = json.loads((out / "plan.json").read_text())
        for row in values["configurations"]["fullres"]["cases"].values():
            row.update(chunk=[512] * 3, shard=[512] * 3, shape=[512] * 3)
        (out / "plan.json").write_text(json.dumps(values))
        before = stores(out)
        done = alone("preprocess", out, "--memory-limit", "300MiB")
        assert done.returncode == 2, done.stderr
        assert re.search(r"voxelmill: a chunk of 512 x 512 x 512 .* needs a worker of \d+MiB", done.stderr)
        assert stores(out) == before

    @pytest.fixture
    def wide(self, tmp_path):
        """One slice has 200 MB."""
        image = sitk.Image(5000, 5000, 2, sitk.sitkFloat64) + 1
        (tmp_path / "in").mkdir()
        sitk.WriteImage(image, str(tmp_path / "in" / "wide.nii"))
        return tmp_path / "in"

    @pytest.mark.parametrize("command", [("run",), ("ingest",)])
    def test_what_does_not_fit_is_refused_with_the_limit_that_does(self, wide, tmp_path, command):
        done = alone(*command, wide, tmp_path / "out", "--memory-limit", "300MiB")
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        asked = re.fullmatch(
            r"voxelmill: case wide: a slice of 5000 x 5000 voxels needs a worker of (\d+MiB), "
            r"--memory-limit is 300MiB\. Pass --memory-limit \1, or more\.",
            last,
        )
        assert asked, last
        assert not (tmp_path / "out" / "training.zarr").exists()
        assert alone(*command, wide, tmp_path / "out", "--memory-limit", asked[1]).returncode == 0

    def test_the_plan_says_what_a_limit_makes_of_it(self, made, tmp_path):
        out = made[1]
        (tmp_path / "raw.zarr").symlink_to(out / "raw.zarr")
        (tmp_path / "fingerprint.json").write_bytes((out / "fingerprint.json").read_bytes())
        peaks = []
        for limit in ([], ["--memory-limit", "265MiB"]):
            done = call("plan", tmp_path, *limit)
            assert done.returncode == 0, done.stderr
            stated = re.findall(r"peak memory of a worker, (\w+)\W+([\d.]+) MiB", done.stdout)
            planned = Plan.load(tmp_path).peak_bytes
            assert {k: f"{v / 2**20:.1f}" for k, v in planned.items()} == dict(stated)
            peaks.append(planned)
        assert max(peaks[1].values()) <= 265 * 2**20
        assert alone("preprocess", tmp_path, "--memory-limit", "1GiB").returncode == 0
