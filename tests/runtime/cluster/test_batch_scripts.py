"""Batch scripts without their queues: what they refuse, what they start, and how they end.

Where a queue would launch workers on other nodes, small programs of the same name start them here, with
nothing of this environment, as those do. SLURM itself is in runtime/cluster/test_slurm_batch.py.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import datasets
import psutil
import pytest
import yaml
from commands import wait_until
from slurm_support import BATCH, BIN, REPOSITORY, environment, local, tell, training

SCRIPTS = sorted((REPOSITORY / "cluster").rglob("*.sh"))
HERE = socket.gethostname().split(".")[0]
HOSTS = {"first": 1, "second": 2}  # names and slots that the pretended queue gives to a job


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
class TestText:
    def test_is_bash(self, script):
        assert script.read_text().startswith("#!/usr/bin/env bash\n")
        assert os.access(script, os.X_OK)
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
    def test_shellcheck(self, script):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert done.stdout == ""

    def test_names_no_place_of_one_machine(self, script):
        paths = re.findall(r"(?<![\w.$}*>\"])/[a-z]\w+(?:/[\w.]+)*", script.read_text())
        assert set(paths) <= {"/usr/bin/env", "/dev/null", "/bin/bash"}


def test_scripts_of_one_allocation_share_what_follows_the_launch():
    """A queue copies its script to a folder of its own, so that none can source another."""
    names = ("slurm", "slurm_gpu", "pbs", "lsf", "sge")
    tails = {(BATCH / f"{name}.sh").read_text().partition("# ---- The same in all")[2] for name in names}
    assert len(tails) == 1
    assert tails.pop()


class TestWrongUse:
    VARIABLES = {
        "SLURM_JOB_ID": 1,
        "SLURM_CPUS_PER_TASK": 1,
        "SLURM_NTASKS_PER_NODE": 1,
        "PBS_JOBID": "1.pbs",
    }
    VARIABLES |= {"LSB_JOBID": 1, "JOB_ID": 1}

    def refuse(self, name, folder, *words, **variables):
        done = subprocess.run(
            ["bash", BATCH / f"{name}.sh", *words],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(PBS_O_WORKDIR=folder, **self.VARIABLES, **variables),
        )
        assert done.returncode == 2, done.stderr
        assert list(folder.iterdir()) == []
        return done.stderr

    @pytest.mark.parametrize("name", [path.stem for path in SCRIPTS if path.parent == BATCH])
    @pytest.mark.parametrize("words", [[], ["raw"], ["--preset", "nnunet", "raw", "out"], ["raw", "-x"]])
    def test_words(self, name, words, tmp_path):
        assert "SOURCE and OUT come first" in self.refuse(name, tmp_path, *words)

    @pytest.mark.parametrize("name", [path.stem for path in SCRIPTS if path.parent == BATCH])
    def test_no_environment(self, name, tmp_path):
        assert "no voxelmill on the PATH" in self.refuse(name, tmp_path, "raw", "out", PATH="/usr/bin:/bin")

    @pytest.mark.parametrize("name", [path.stem for path in SCRIPTS if path.parent == BATCH])
    def test_nothing_to_read(self, name, tmp_path):
        """Words that are swapped: nothing may be written into what is meant to be SOURCE."""
        assert "SOURCE does not exist" in self.refuse(name, tmp_path, "raw", "out")

    @pytest.mark.parametrize(
        ("name", "how", "variables"),
        [
            ("slurm", "sbatch {} raw out", {}),
            ("slurm", "sbatch {} raw out", {"SLURM_JOB_ID": 1}),  # a shell of salloc
            ("slurm_gpu", "sbatch {} raw out", {}),
            ("pbs", "VOXELMILL_ARGS='raw out' qsub -v VOXELMILL_ARGS {}", {}),
            ("lsf", "VOXELMILL_ARGS='raw out' bsub < {}", {}),
            ("sge", "qsub {} raw out", {}),
            ("slurm_array", "Submit it with sbatch", {"STAGE": "plan"}),
            ("slurm_array", "no sbatch on the PATH", {"PATH": f"{BIN}:/bin/nothing"}),
        ],
    )
    def test_outside_of_a_job(self, name, how, variables, tmp_path):
        """One line that says how to submit it, and no unbound variable."""
        (tmp_path / "raw").mkdir()
        none = dict.fromkeys((*self.VARIABLES, "PBS_O_WORKDIR"))
        script = BATCH / f"{name}.sh"
        done = subprocess.run(
            [shutil.which("bash"), script, "raw", "out"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(**none | variables),
        )
        assert done.returncode == 2
        assert re.fullmatch(r"voxelmill: .*\n", done.stderr)
        assert how.format(script) in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    def test_unknown_stage(self, tmp_path):
        assert "fingerprint" in self.refuse("slurm_array", tmp_path, "raw", "out", STAGE="fingerprint")


@pytest.mark.slow
def test_a_bad_case_does_not_end_an_array(tmp_path):
    """Stages end with status 1 where a case is bad; the queue must not cancel what depends on them."""
    source = datasets.nnunet(tmp_path / "raw").source
    (source / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
    job = {"SLURM_JOB_ID": 1, "SLURM_CPUS_PER_TASK": 1, "SLURM_ARRAY_TASK_ID": 1, "SHARES": 1}
    for stage, status in (("ingest", 1), ("plan", 0), ("preprocess", 0)):
        done = subprocess.run(
            ["bash", BATCH / "slurm_array.sh", "raw", "out"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(STAGE=stage, **job),
        )
        assert done.returncode == status, done.stderr
        assert ("failed  b: " in done.stdout) == (stage != "preprocess")
    assert (tmp_path / "out" / "training.zarr" / "fullres" / "a").is_dir()


class Queue:
    """A pretended queue: what it tells a job, and programs that launch on its nodes."""

    def __init__(self, name, launcher, folder):
        self.name, self.folder, self.launched = name, folder, folder / "launched"
        self.programs = folder / "programs"
        self.programs.mkdir()
        skip = {"pbs_tmrsh": 0, "pbsdsh": 1, "blaunch": 0, "qrsh": 2}[launcher]
        program = self.programs / launcher
        program.write_text(
            f'#!/bin/bash\nshift {skip}; echo "{launcher} $1" >>{self.launched}; shift; cd /\n'
            'exec env -i HOME="$HOME" PATH=/usr/bin:/bin "$@"\n'
        )
        program.chmod(0o755)

    def variables(self):
        lines = [f"{host}.cluster {slots} all.q UNDEFINED\n" for host, slots in HOSTS.items()]
        (self.folder / "hosts").write_text("".join(lines))
        (self.folder / "slots").write_text("".join(f"{host}\n" * slots for host, slots in HOSTS.items()))
        return {
            "PATH": f"{self.programs}:{BIN}:/usr/bin:/bin",
            "PBS_JOBID": "7.pbs",
            "PBS_O_WORKDIR": self.folder,
            "PBS_NODEFILE": self.folder / "slots",
            "LSB_JOBID": 7,
            "LSB_MCPU_HOSTS": " ".join(f"{host} {slots}" for host, slots in HOSTS.items()),
            "JOB_ID": 7,
            "PE_HOSTFILE": self.folder / "hosts",
        }

    def start(self, *words, **variables):
        """The script as the queue starts it: a copy elsewhere, in a session of its own."""
        spool = self.folder / "spool"
        spool.mkdir(exist_ok=True)
        shutil.copy(BATCH / f"{self.name}.sh", spool / "job")
        with (self.folder / "output").open("w") as output:
            return subprocess.Popen(
                ["bash", spool / "job", *map(str, words)],
                stdout=output,
                stderr=output,
                cwd=spool if self.name == "pbs" else self.folder,
                env=environment(**self.variables() | variables),
                start_new_session=True,
            )

    def logs(self, out):
        return sorted(path.name for path in (out / "logs" / f"{self.name}-7").iterdir())

    def output(self):
        return (self.folder / "output").read_text()


def left(process):
    """What still runs of a job, by its session."""
    found = []
    for p in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if p.status() != psutil.STATUS_ZOMBIE and os.getsid(p.pid) == process.pid:
                found.append(p)
    return found


LOGS = ["driver.log", "launch.log", "scheduler.json", "scheduler.log"]


@pytest.mark.slow
class TestRun:
    @pytest.mark.parametrize(
        ("name", "launcher", "in_variable"),
        [
            ("pbs", "pbs_tmrsh", True),
            ("pbs", "pbsdsh", False),
            ("lsf", "blaunch", True),
            ("sge", "qrsh", False),
        ],
    )
    def test_on_two_nodes(self, tmp_path, name, launcher, in_variable):
        source = datasets.nnunet(tmp_path / "raw data").source
        local(source, tmp_path / "alone", "--set", "target_spacing=[1.0, 0.6, 0.5]")
        queue = Queue(name, launcher, tmp_path)
        words = ["raw data", "out", "--set", "target_spacing=[1.0, 0.6, 0.5]"]
        if in_variable:
            quoted = "'raw data' out --set \"target_spacing=[1.0, 0.6, 0.5]\""
            process = queue.start(VOXELMILL_ARGS=quoted)
        else:
            process = queue.start(*words)
        assert process.wait(120) == 0, queue.output()
        assert re.search(r"cases done\W+2\b", queue.output())
        assert training(tmp_path / "out") == training(tmp_path / "alone")
        assert sorted(queue.launched.read_text().split()[1::2]) == sorted(
            f"{host}.cluster" if name == "sge" else host for host in HOSTS
        )
        found = queue.logs(tmp_path / "out")
        assert set(LOGS) - {"scheduler.json"} < set(found)
        assert len([log for log in found if log.startswith("worker-")]) == len(HOSTS)
        assert re.search(r"cases done\W+2\b", (tmp_path / f"out/logs/{name}-7/driver.log").read_text())
        wait_until(lambda: not left(process), 10)

    def test_workers_of_the_first_node_need_no_launcher(self, tmp_path, monkeypatch):
        monkeypatch.setitem(globals(), "HOSTS", {HERE: 2})
        source = datasets.nnunet(tmp_path / "raw").source
        queue = Queue("lsf", "blaunch", tmp_path)
        assert queue.start(source, tmp_path / "out").wait(120) == 0, queue.output()
        assert not queue.launched.exists()

    def test_failed_cases_are_the_jobs_status(self, tmp_path):
        source = datasets.nnunet(tmp_path / "raw").source
        (source / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
        queue = Queue("sge", "qrsh", tmp_path)
        process = queue.start(source, tmp_path / "out")
        assert process.wait(120) == 1, queue.output()
        assert "failed  b: " in queue.output()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    cases = {f"case{i}": ((60, 200, 200), (1.2, 0.9, 0.9)) for i in range(4)}
    made = datasets.manifest(folder / "raw", cases, ("CT", "T1"))
    words = ["--set", "target_spacing=[1,0.8,0.8]", "--set", "store.shard_mib=8"]
    local(made.source, folder / "out", *words)
    return made.source, words, training(folder / "out")


@pytest.mark.slow
class TestInterrupted:
    def begin(self, tmp_path, large):
        source, words, _ = large
        queue = Queue("lsf", "blaunch", tmp_path)
        out = tmp_path / "out"
        process = queue.start(source, out, *words)
        wait_until(lambda: list(out.glob("training.zarr/fullres/*/image/c")), 120, queue.output)
        assert process.poll() is None
        return queue, process, out

    def go_on(self, queue, out, large):
        source, words, expected = large
        assert queue.start(source, out, *words).wait(200) == 0, queue.output()
        assert training(out) == expected
        assert not list(out.rglob("*.partial"))

    @pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
    def test_told_by_the_queue(self, tmp_path, large, name):
        """bkill sends SIGINT, then SIGTERM; Grid Engine SIGUSR2, to the script alone."""
        queue, process, out = self.begin(tmp_path, large)
        process.send_signal(name)
        assert process.wait(60) == 143, queue.output()
        assert "Run the same command again" in queue.output()
        wait_until(lambda: not left(process), 10)
        self.go_on(queue, out, large)

    def test_told_all_at_once(self, tmp_path, large):
        """As PBS does: every process of the job on that node gets the signal."""
        queue, process, out = self.begin(tmp_path, large)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) in (1, 143), queue.output()
        wait_until(lambda: not left(process), 20)
        self.go_on(queue, out, large)

    def test_scheduler_dies(self, tmp_path, large):
        queue, process, out = self.begin(tmp_path, large)
        (scheduler,) = (p for p in left(process) if "scheduler" in p.cmdline())
        scheduler.kill()
        assert process.wait(90) == 1, queue.output()
        assert "Traceback" not in queue.output()
        wait_until(lambda: not left(process), 10)
        self.go_on(queue, out, large)

    def test_a_node_dies(self, tmp_path, large):
        queue, process, out = self.begin(tmp_path, large)
        (node,) = (p for p in left(process) if p.cmdline()[-2:] == ["--nworkers", "1"])
        for victim in (node, *node.children(recursive=True)):
            victim.kill()
        assert process.wait(200) == 0, queue.output()
        assert training(out) == large[2]


def make_certificates(folder):
    script = REPOSITORY / "cluster" / "make_certificates.sh"
    return subprocess.run(["bash", script, folder], capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls") / "my certificates"
    done = make_certificates(folder)
    assert done.returncode == 0, done.stderr
    return folder


class TestCertificates:
    def test_belongs_to_its_maker(self, made):
        assert sorted(p.name for p in made.iterdir()) == ["ca.pem", "cert.pem", "key.pem", "tls.sh"]
        assert all(p.stat().st_mode & 0o077 == 0 for p in (made, *made.iterdir()))

    def test_is_signed_for_90_days(self, made):
        verify = ["openssl", "verify", "-x509_strict", "-CAfile", made / "ca.pem", made / "cert.pem"]
        assert subprocess.run(verify, capture_output=True).returncode == 0
        valid = ["openssl", "x509", "-noout", "-checkend", str(89 * 86400), "-in", made / "cert.pem"]
        assert subprocess.run(valid, capture_output=True).returncode == 0
        valid[4] = str(91 * 86400)
        assert subprocess.run(valid, capture_output=True).returncode == 1

    def test_never_overwrites(self, made):
        before = (made / "key.pem").read_bytes()
        done = make_certificates(made)
        assert done.returncode == 2
        assert "name a new folder" in done.stderr
        assert (made / "key.pem").read_bytes() == before

    @pytest.mark.slow
    def test_scheduler_speaks_with_members_only(self, tmp_path, made):
        """A run with the certificate; a stranger, and one without any, get no answer."""
        source = datasets.nnunet(tmp_path / "raw").source
        local(source, tmp_path / "alone")
        queue = Queue("lsf", "blaunch", tmp_path)
        process = queue.start(source, tmp_path / "out", VOXELMILL_TLS=made)
        file = tmp_path / "out" / "logs" / "lsf-7" / "scheduler.json"
        wait_until(lambda: file.exists() and file.stat().st_size, 60, queue.output)
        address = re.search(r"tls://[\d.:]+", file.read_text())[0]
        assert make_certificates(tmp_path / "other").returncode == 0
        self.refuse(address, f"source '{tmp_path}/other/tls.sh'")
        self.refuse(address.replace("tls", "tcp"), ":")
        assert process.wait(120) == 0, queue.output()
        assert training(tmp_path / "out") == training(tmp_path / "alone")

    def refuse(self, address, before):
        ask = f"from distributed import Client; Client('{address}', timeout=3)"
        words = ["bash", "-c", f'{before}; exec python -c "$1"', "bash", ask]
        done = subprocess.run(words, capture_output=True, text=True, env=environment())
        assert re.search(r"^(OSError|.*CommClosedError|ssl\.\w+)", done.stderr, re.M), done.stderr


PROFILES = REPOSITORY / "cluster" / "profiles"


@pytest.mark.parametrize("name", ["slurm", "pbs", "lsf", "sge"])
class TestProfiles:
    """Through `voxelmill run --dry-run`, which prints the job script."""

    def script(self, name, folder, *words, profile=None):
        pytest.importorskip("dask_jobqueue")
        command = [BIN / "voxelmill", "run", "raw", "out", "--cluster", name, "--dry-run", *words]
        return tell(*command, cwd=folder, **({"DASK_CONFIG": profile} if profile else {}))

    def test_keys_are_those_of_dask_jobqueue(self, name):
        jobqueue = pytest.importorskip("dask_jobqueue")
        known = yaml.safe_load(Path(jobqueue.__file__).with_name("jobqueue.yaml").read_text())["jobqueue"]
        ((section, values),) = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())["jobqueue"].items()
        assert section == name
        assert values.keys() <= known[name].keys()

    def test_is_what_jobs_get(self, name, tmp_path):
        script = self.script(name, tmp_path, profile=PROFILES / f"{name}.yaml")
        assert re.search(r"\b0?4:00", script)
        assert "--nworkers 4 " in script
        assert "--death-timeout 300 " in script
        assert "--lifetime 12960s" in script

    def test_table_of_a_settings_file_goes_before(self, name, tmp_path):
        text = (PROFILES / "cluster.toml").read_text().replace("cores = 4", "cores = 3")
        (tmp_path / "cluster.toml").write_text(re.sub("# (queue|account|job_script)", r"\1", text))
        words = ["--config", "cluster.toml"]
        script = self.script(name, tmp_path, *words, profile=PROFILES / f"{name}.yaml")
        for found in (r"--nworkers 3\b", r" long\b", r"\bimaging\b", "^module load python$"):
            assert re.search(found, script, re.M), script
