"""Machines that lack something: a home, a folder to write to, open files, memory, a terminal with umlauts.

Real accidents: `docker run -u 1234`, a read-only install, `ulimit` and `h_vmem` of batch systems, login
shells with `LC_ALL=C`, a broken file in ~/.config/dask.
"""

import errno
import logging
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import datasets
import numpy as np
import pytest
from commands import ENVIRONMENT, SCRIPT, call, within
from distributed import Client

import voxelmill
from voxelmill.basics.errors import ConfigError, system_message
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.tasks import attempt
from voxelmill.stages.planning.plan_json import Plan

PACKAGE = Path(voxelmill.__file__).parent
VOXELS = np.arange(1, 121, dtype="i2").reshape(4, 5, 6)
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""What permissions mean nothing to is taken from root."""

needs_setpriv = pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root can write anywhere, without setpriv"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return datasets.nnunet(
        tmp_path_factory.mktemp("environment") / "raw", ("a", "b"), shape=(8, 12, 14)
    ).source


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """The package and a home, neither of which can be written."""
    folder = tmp_path_factory.mktemp("read_only")
    shutil.copytree(PACKAGE, folder / "voxelmill", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "home").mkdir()
    subprocess.run(["chmod", "-R", "a-w", folder], check=True)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def refusal(*words, **variables):
    """The one line of a command that is refused before work begins."""
    done = call(*words, **variables)
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


def shell(line, *words, **variables):
    """The script after a line of shell, such as a limit."""
    return subprocess.run(
        ["bash", "-c", f'{line}; exec "$0" "$@"', *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**ENVIRONMENT, **variables},
    )


# No place for compiled kernels


@needs_setpriv
def test_kernels_work_where_nothing_can_be_kept_and_say_so_once(read_only):
    code = (
        "import logging, numpy as np, voxelmill; logging.basicConfig(format='%(message)s');"
        "mask = np.zeros((5, 5, 5), bool); mask[1:4, 1:4, 1:4] = True; mask[2, 2, 2] = False;"
        "labels = np.arange(27, dtype=np.int32).reshape(3, 3, 3);"
        "print(voxelmill.fill_holes(mask).sum(), voxelmill.nonzero_box(mask));"
        "print(voxelmill.resample_labels(labels, (5, 5, 5), method='linear').max())"
    )
    variables = {"HOME": str(read_only / "home"), "PYTHONPATH": str(read_only)}
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={k: v for k, v in ENVIRONMENT.items() if not k.startswith(("NUMBA", "XDG"))} | variables,
    )
    assert done.stdout.split("\n")[:2] == ["27 ((1, 4), (1, 4), (1, 4))", "26"], done.stderr
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1
    assert len(done.stderr.splitlines()) == 1


@needs_setpriv
@pytest.mark.slow
def test_a_run_works_on_a_read_only_install_and_says_so_once(source, read_only, tmp_path):
    done = subprocess.run(
        [*UNPRIVILEGED, SCRIPT, "run", source, tmp_path / "out", "--workers=2"],
        capture_output=True,
        text=True,
        env={k: v for k, v in ENVIRONMENT.items() if not k.startswith(("NUMBA", "XDG"))}
        | {"HOME": str(read_only / "home"), "PYTHONPATH": str(read_only)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1


def test_a_cache_whose_disk_is_full_is_none(caplog, monkeypatch):
    """A home with a quota: what Numba says must not be told as OUT's disk."""
    from numba.core import caching

    from voxelmill.kernels import numba_on_first_use

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.Cache, "save_overload", full)  # the disk of a home cannot be filled here
    numba_on_first_use.say_no_cache.cache_clear()

    def double(x):
        return 2 * x

    with caplog.at_level(logging.WARNING, "voxelmill"):
        assert numba_on_first_use.compiled(double)(3) == 6
        assert numba_on_first_use.compile_now(double, "int64(int64)")(4) == 8
    assert [r.getMessage() for r in caplog.records] == [numba_on_first_use.NO_CACHE]


def printed_by(code):
    """What a Python process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_user_whom_nobody_knows_gets_a_home():
    """docker run -u 54321, where HOME is unset: bokeh fails, Numba makes a folder called ~."""
    code = (
        "import os; from pathlib import Path; from voxelmill.basics.process_limits import ensure_home;"
        "os.environ.pop('HOME', None); import pwd; os.setuid(54321);"
        "ensure_home(); print(Path.home())"
    )
    assert printed_by(code) == "/\n"


def test_a_home_that_is_there_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    voxelmill.basics.process_limits.ensure_home()
    assert os.environ["HOME"] == str(tmp_path)


def test_kernels_that_may_not_be_compiled_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(ConfigError, match=r"NUMBA_DISABLE_JIT is set.*Unset it"):
        within("run", source, tmp_path / "out", "--cluster=none")
    assert not (tmp_path / "out").exists()


# Limits of the system


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be():
    code = (
        "import resource; from voxelmill.basics.process_limits import open_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 400)); open_files(9);"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert printed_by(code) == "400 400\n"


def test_too_few_open_files_are_said_with_both_numbers(source, tmp_path):
    words = [SCRIPT, "run", source, tmp_path / "out"]
    done = shell("ulimit -n 70", *words, "--workers=4")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("voxelmill: 4 workers need 80 open files")
    assert "may have 70 (ulimit -Hn). Raise the limit, or pass --workers 3." in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_workers_that_are_advised_can_be_had(source, tmp_path):
    done = shell("ulimit -n 46", SCRIPT, "run", source, tmp_path / "out", "--workers=1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mebibytes", [600, 750, 1000])
def test_too_little_address_space_is_said_at_once(source, tmp_path, mebibytes):
    done = shell(f"ulimit -v {mebibytes << 10}", SCRIPT, "run", source, tmp_path / "out", "--workers=1")
    assert done.returncode == 2, done.stderr
    assert f"limited to {mebibytes} MiB (ulimit -v" in done.stderr.splitlines()[-1]
    assert "1152 MiB are needed" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_no_limit_is_none(monkeypatch):
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: endless)
    voxelmill.basics.process_limits.open_files(10**6)
    voxelmill.basics.process_limits.check_address_space(10**6)


# Dask's configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed: [unclosed\n", "is malformed"),
        ("- a list\n", "must have a dict as the top level object"),
    ],
)
def test_a_broken_file_of_dasks_is_told_by_dasks_reason(source, tmp_path, text, said):
    (tmp_path / "broken.yaml").write_text(text)
    line = refusal("run", source, tmp_path / "out", DASK_CONFIG=str(tmp_path / "broken.yaml"))
    assert said in line
    assert "broken.yaml" in line
    assert "DASK_CONFIG" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temporary-directory": "/proc/none"}, "Dask's temporary-directory /proc/none cannot be written"),
        ({"distributed.comm.require-encryption": True}, "workers cannot be started .*TLS"),
        ({"distributed.worker.multiprocessing-method": "warp"}, r"started \(unknown: 'warp'\)\. Mend"),
        ({"distributed.scheduler.preload": ["no_such_module"]}, r"\(No module named 'no_such_module'\)"),
    ],
)
def test_what_keeps_workers_from_starting_is_told_by_dasks_reason(settings, said):
    with dask.config.set(settings), pytest.raises(ConfigError, match=said), connect("local", 1):
        pass


def test_no_temporary_folder_at_all(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(ConfigError, match=r"no temporary folder can be written.*TMPDIR"), connect("local", 1):
        pass


def test_certificates_that_are_not_there(tmp_path):
    where = {f"distributed.comm.tls.{key}": str(tmp_path / "none.pem") for key in ("ca-file", "client.cert")}
    with (
        dask.config.set(where),
        pytest.raises(ConfigError, match=r"certificate .* cannot be used \(No such file or directory\)"),
        connect(scheduler="tls://127.0.0.1:1"),
    ):
        pass


def test_a_time_that_is_none_is_told_by_dasks_reason(source, tmp_path):
    line = refusal("run", source, tmp_path / "out", DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="abc")
    assert "workers cannot be started (unknown: " in line
    assert "abc" in line
    assert not (tmp_path / "out").exists()


def test_words_of_dasks_that_mean_nothing_are_told_where_a_scheduler_is_joined():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "abc"}),
        pytest.raises(ConfigError, match=r"--scheduler tcp://127.0.0.1:1: no scheduler answers .*abc"),
        connect(scheduler="tcp://127.0.0.1:1"),
    ):
        pass


def test_nothing_stays_behind_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with connect("local", 1) as client:
        assert list(tmp_path.glob("voxelmill-*/dask-scratch-space/worker-*"))
        assert client.submit(in_a_task).result() == ("this process is daemonic", 1)
    assert list(tmp_path.iterdir()) == []


# Processes that may start no others, and clients that cannot be used


def in_a_task():
    """What two calls say where no processes can be started: the first words, and cases that are done."""
    with tempfile.TemporaryDirectory() as folder:
        made = datasets.nnunet(Path(folder, "raw"), ("a",), shape=(4, 6, 6)).source
        try:
            voxelmill.run(made, Path(folder, "refused"), workers=2)
            said = ""
        except ConfigError as error:
            said = str(error).partition(",")[0]
        assert not Path(folder, "refused").exists()
        return said, len(voxelmill.run(made, Path(folder, "out"), cluster="none").cases)


def test_in_a_pool_it_is_refused_with_what_works():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(in_a_task) == ("this process is daemonic", 1)
        pool.close()
        pool.join()


def test_a_script_without_a_guard_works(source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import voxelmill\nprint(voxelmill.run({str(source)!r}, 'out', workers=1).failed)\n")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_client_that_is_closed_is_refused(source, tmp_path):
    with Client(processes=False, n_workers=0, dashboard_address=":0") as client:
        pass
    with pytest.raises(ConfigError, match="client is closed"):
        voxelmill.run(source, tmp_path / "out", client=client)
    assert not (tmp_path / "out").exists()


def test_an_asynchronous_client_is_refused(source, tmp_path):
    import asyncio

    async def main():
        async with Client(processes=False, n_workers=0, dashboard_address=":0", asynchronous=True) as client:
            with pytest.raises(ConfigError, match="client is an asynchronous one"):
                voxelmill.run(source, tmp_path / "out", client=client)

    asyncio.run(main())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"cluster": "kubernetes"}, "kubernetes.*choose one of local"),
        ({"workers": 0}, "at least 1 is needed"),
        ({"workers": "4"}, "--workers is '4'; a whole number is needed"),
        ({"workers": 2.5}, "--workers is 2.5; a whole number is needed"),
        ({"workers": True}, "--workers is True; a whole number is needed"),
        ({"client": "tcp://here:1"}, "client is 'tcp://here:1'; a Dask Client is needed"),
        ({"config": {"order": 9}}, "setting 'order' is 9; expected: a whole number from 0 to 3"),
        ({"config": "settings.toml"}, "config is 'settings.toml'; expected: a Config"),
        ({"memory_limit": "4"}, "'memory_limit' is '4', which is 4 bytes; expected: a size with its unit"),
        ({"device": "tpu"}, "choose one of auto, cpu, gpu"),
        ({"device": "gpu"}, "workers of --cluster local have no GPU"),
        ({"memory_limit": "1MiB"}, "a worker takes"),
        ({"memory_limit": 2**20}, "a worker takes"),
        ({"scheduler": "none.json"}, "no such scheduler file"),
        ({"client": object(), "workers": 4}, "client has workers of its own"),
        ({"client": object(), "cluster": "none"}, "client has workers of its own"),
        ({"client": object(), "scheduler": "tcp://here:1"}, "client has workers of its own"),
    ],
)
def test_words_of_the_command_are_arguments_and_refused_alike(source, tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        voxelmill.run(source, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_the_memory_limit_goes_before_the_configurations(source, tmp_path):
    report = voxelmill.run(
        source, tmp_path / "out", config={"memory_limit": "9GiB"}, memory_limit="2GiB", cluster="none"
    )
    assert not report.failed
    assert Plan.load(tmp_path / "out").peak_bytes["preprocess"] < 2 * 2**30


# Terminals


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\xfc"), ("latin-1", "ü")])
def test_a_terminal_without_umlauts_shows_escapes(source, tmp_path, encoding, shown):
    name = "aus\u0142" if encoding == "latin-1" else "ü"
    done = subprocess.run(
        [SCRIPT, "run", source, name, "--cluster=none"],
        capture_output=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode(encoding)
    assert (r"aus\u0142" if encoding == "latin-1" else shown) + "/training.zarr" in printed


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "f\u00fc,a.npy",
            "row 1: the id 'f\\xfc' is no name of a file in this locale (ascii; LC_ALL=C.UTF-8",
        ),
        ("a,f\u00fc.npy", "row 1: the path in column 'CT' is no name of a file in this locale (ascii"),
    ],
)
def test_a_locale_without_umlauts_has_no_files_called_so(tmp_path, row, said):
    """Python takes UTF-8 for the locale C, unless it is told not to; of others, such as latin-1, never."""
    np.save(tmp_path / "a.npy", VOXELS)
    (tmp_path / "cases.csv").write_text(f"case,CT\n{row}\nb,a.npy\n", encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    line = refusal("run", tmp_path / "cases.csv", tmp_path / "out", "--cluster=none", **ascii_alone)
    assert said in line
    assert not (tmp_path / "out").exists()


# What OUT's file system does not do


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "no permission"),
        (errno.EXDEV, "cannot rename files"),
        (errno.ENOTSUP, "cannot do what is needed"),
        (errno.ENOSYS, "cannot do what is needed"),
    ],
)
def test_a_file_system_that_renames_nothing_is_refused_before_work(
    source, tmp_path, monkeypatch, number, said
):
    """None such can be mounted here: the system call says so."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ConfigError, match=said):
        within("run", source, tmp_path / "out", "--cluster=none")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused_before_work(tmp_path):
    """A folder of our own in one that is another user's."""
    out = tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    code = (
        f"import pathlib, voxelmill.storage.lease as l\nwith l.hold(pathlib.Path({str(out)!r}), 'run'): pass"
    )
    (out / "logs").chmod(0o555)
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert "ConfigError: no permission (Permission denied). See that OUT can be written" in done.stderr


@needs_setpriv
@pytest.mark.parametrize(
    ("hidden", "source", "status", "said"),
    [
        (
            "raw/b.nii.gz",
            "raw",
            1,
            "failed  b: the file cannot be read: Permission denied",
        ),
        ("raw/b.nii.gz", "raw/b.nii.gz", 2, "not readable"),
        ("raw", "raw/a.nii.gz", 2, "cannot be read: Permission denied. Correct its rights."),
        ("raw", "raw", 2, "not readable"),
    ],
)
def test_what_cannot_be_read(tmp_path, hidden, source, status, said):
    """A file fails its case; what cannot be seen at all is refused."""
    (tmp_path / "raw").mkdir()
    for case in "ab":
        datasets.write_image(tmp_path / "raw" / f"{case}.nii.gz", VOXELS, datasets.Grid())
    mode = (tmp_path / hidden).stat().st_mode
    (tmp_path / hidden).chmod(0)
    words = [SCRIPT, "run", tmp_path / source, tmp_path / "out", "--cluster=none"]
    try:
        done = subprocess.run([*UNPRIVILEGED, *words], capture_output=True, text=True, env=ENVIRONMENT)
    finally:
        (tmp_path / hidden).chmod(mode)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert (tmp_path / "out").exists() == (status == 1)


@pytest.mark.parametrize("out", ["x" * 256, "/".join(["x" * 200] * 20)])
def test_a_name_that_is_too_long_is_refused(source, tmp_path, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"OUT is too long: [0-9]+ bytes, 2[0-9]+ in its longest name"):
        within("run", source, out, "--cluster=none")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "no permission"),
        (errno.EMFILE, "no more files can be opened"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.ENOMEM, "no more memory"),
        (errno.ENOTEMPTY, "Directory not empty. Check that OUT and SOURCE can be used"),
    ],
)
def test_a_task_tells_of_the_system_and_of_no_file(number, said):
    def fail():
        raise OSError(number, os.strerror(number), "/data/Doe_John.nii")

    outcome = attempt("t", "a", fail, ())
    assert said in outcome.cause
    assert "Doe" not in outcome.cause
    assert outcome.cause == system_message(OSError(number, "", "/data"))
