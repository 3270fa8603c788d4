"""OUT is held by one at a time: real processes, really killed. Another host is a file with another boot."""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest

from voxelmill.basics.errors import ConfigError, LeaseError
from voxelmill.basics.stage_share import Share
from voxelmill.storage import lease, partial_files
from voxelmill.storage.lease import FOLDER, Claim, Holder, hold, holders, live_ids
from voxelmill.storage.process_identity import this_process

LONG = 60.0
"""Seconds that a test which must not wait would wait."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.04)
    monkeypatch.setattr(lease, "EXPIRY", 0.4)
    monkeypatch.setattr(lease, "SETTLE", 1.0)


@pytest.fixture
def patient(monkeypatch):
    """Who watches here waits so long that the test fails."""
    monkeypatch.setattr(lease, "EXPIRY", LONG)


def files(out):
    folder = out / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def python(code, *arguments):
    """A process that runs `code` with short times."""
    head = """
        import os, signal, sys, time
        from pathlib import Path
        from voxelmill.storage import lease, partial_files as partials
        from voxelmill.basics.errors import LeaseError
        from voxelmill.storage.lease import hold
        from voxelmill.basics.stage_share import Share
        lease.BEAT, lease.EXPIRY, lease.SETTLE = 0.04, 0.4, 1.0
    """
    code = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


HOLD = """
    out, command, share = sys.argv[1:]
    with hold(Path(out), command, Share.parse(share) if share else None) as held:
        left = partials.partial_name(Path(out, "0"))
        left.write_text("half")
        print(held.id, left, flush=True)
        sys.stdin.read()
"""


@contextmanager
def other(out, command="run", share=""):
    """Another process that holds OUT until the end, or until it is killed."""
    process = python(HOLD, out, command, share)
    try:
        process.id, _, left = process.stdout.readline().rstrip().partition(" ")
        assert process.id
        process.left = out / left
        yield process
    finally:
        process.kill()
        process.communicate()


def kill(process):
    process.kill()
    process.wait()


def foreign(out, command="run", share=None, **changes):
    """A holder on another host; its file."""
    process = this_process().model_copy(update={"host": "n7", "boot": "another", **changes})
    path = out / FOLDER / Claim(command, share, partial_files.new_id()).file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Holder(process=process, started="2026-11-25T22:05:13+00:00").model_dump_json())
    return path


@contextmanager
def beating(path):
    """Give signs of life for a holder."""
    stop = threading.Event()

    def beat():
        while not stop.wait(0.04):
            with path.open("ab") as file:
                file.write(b"\n")

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


def refused(out, command="run", share=None, match="OUT is in use by"):
    before = files(out)
    with pytest.raises(LeaseError, match=match) as caught, hold(out, command, share):
        pytest.fail("held")
    assert "\n" not in str(caught.value)
    assert str(out) not in str(caught.value)
    assert files(out) == before
    return str(caught.value)


class TestAlone:
    def test_nothing_is_left_behind(self, tmp_path):
        before = partial_files.RUN.get()
        with hold(tmp_path / "out", "run") as held:
            assert files(tmp_path / "out") == [f"run.{held.id}.json"]
            assert partial_files.RUN.get() == held.id
            assert held.live() == live_ids(tmp_path / "out") == {held.id}
            held.check()
        assert not (tmp_path / "out").exists()
        assert partial_files.RUN.get() == before
        assert not [thread for thread in threading.enumerate() if thread.name == "lease"]

    def test_what_was_made_meanwhile_or_was_there_before_stays(self, tmp_path):
        (tmp_path / "before").mkdir()
        with hold(tmp_path / "before", "run"), hold(tmp_path / "new", "run"):
            (tmp_path / "new" / "plan.json").touch()
        assert files(tmp_path / "before") == []
        assert sorted(p.name for p in tmp_path.iterdir()) == ["before", "new"]
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["plan.json"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_nor_where_an_error_ends_it(self, tmp_path, error):
        with pytest.raises(error), hold(tmp_path, "run"):
            raise error
        assert files(tmp_path) == []

    def test_the_file_shows_signs_of_life(self, tmp_path):
        with hold(tmp_path, "run"):
            (first,) = holders(tmp_path)
            while holders(tmp_path)[0].content == first.content:
                time.sleep(0.01)
            (later,) = holders(tmp_path)
            assert later.holder == first.holder
            assert later.is_alive

    @pytest.mark.usefixtures("patient")
    def test_another_process_is_refused_at_once(self, tmp_path):
        with other(tmp_path) as process:
            message = refused(tmp_path, "fingerprint")
            assert (
                f"`voxelmill run` on host {this_process().host}, process {process.pid}, since 20" in message
            )
            assert message.endswith("Wait for it, stop it, or use another OUT.")
            process.communicate("")
        with hold(tmp_path, "run"):
            pass

    @pytest.mark.usefixtures("patient")
    def test_the_same_process_too(self, tmp_path):
        with hold(tmp_path, "run") as held:
            refused(tmp_path)
            held.check()

    @pytest.mark.usefixtures("patient")
    def test_a_process_that_is_stopped_lives(self, tmp_path):
        with other(tmp_path) as process:
            process.send_signal(signal.SIGSTOP)
            refused(tmp_path)

    @pytest.mark.usefixtures("patient")
    def test_taken_at_once_after_a_kill(self, tmp_path):
        with other(tmp_path) as process:
            kill(process)
            assert [state.is_alive for state in holders(tmp_path)] == [False]
            with hold(tmp_path, "run") as held:
                assert files(tmp_path) == [f"run.{held.id}.json"]

    @pytest.mark.usefixtures("patient")
    def test_killed_but_its_parent_has_not_looked(self, tmp_path):
        """A batch script whose voxelmill is killed goes on; the process stays in the table until it asks."""
        with other(tmp_path) as process:
            os.kill(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with hold(tmp_path, "run"):
                pass

    @pytest.mark.usefixtures("patient")
    def test_a_pid_that_came_again(self, tmp_path):
        me = this_process()
        foreign(tmp_path, host=me.host, boot=me.boot, ticks=me.ticks - 1)
        with hold(tmp_path, "run"):
            pass

    def test_processes_that_cannot_be_seen_are_watched(self, tmp_path):
        """Containers of one host, and hosts that say nothing of processes."""
        me = this_process()
        assert me.look()
        assert me.model_copy(update={"boot": ""}).look() is None
        assert me.model_copy(update={"host": "n7"}).look() is None
        assert me.model_copy(update={"boot": me.boot + "1"}).look() is None

    def test_twenty_at_once_that_are_killed_while_they_hold(self, tmp_path):
        """Each comes again until it has held OUT once, and half of them die while they do: no two hold it at
        a time. From the start a dead one of another host is there, whose file all of them want to remove."""
        foreign(tmp_path)
        code = """
            out, go, number = Path(sys.argv[1]), Path(sys.argv[3]), sys.argv[4]
            log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
            while not go.exists():
                time.sleep(0.001)
            while True:
                try:
                    with hold(out, "run") as held:
                        os.write(log, f"{number} begins\\n".encode())
                        time.sleep(0.005)
                        held.check()
                        os.write(log, f"{number} ends\\n".encode())
                        if int(number) % 2:
                            os.kill(os.getpid(), signal.SIGKILL)
                    break
                except LeaseError:
                    time.sleep(0.01)
        """
        log, go = tmp_path / "log", tmp_path / "go"
        log.touch()
        processes = [python(code, tmp_path, log, go, number) for number in range(20)]
        time.sleep(0.5)
        go.touch()
        for process in processes:
            process.communicate(timeout=60)
        assert [p.returncode for p in processes] == [-signal.SIGKILL if i % 2 else 0 for i in range(20)]
        lines = log.read_text().splitlines()
        order = [line.split()[0] for line in lines[::2]]
        assert sorted(order, key=int) == [str(number) for number in range(20)]
        assert lines == [f"{number} {what}" for number in order for what in ("begins", "ends")]

    def test_of_those_that_begin_at_once_one_stays(self, tmp_path):
        """All have announced themselves before any of them looks again."""
        claims = [Claim("run", None, partial_files.new_id()) for _ in range(5)]
        (tmp_path / FOLDER).mkdir(parents=True)
        for claim in claims:
            lease._announce(tmp_path / FOLDER / claim.file)
        stayed = []

        def look(claim):
            try:
                lease._look_again(tmp_path, claim)
                stayed.append(claim)
            except LeaseError:
                (tmp_path / FOLDER / claim.file).unlink()

        random.shuffle(claims)
        threads = [threading.Thread(target=look, args=(claim,)) for claim in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stayed == [min(claims, key=lambda claim: claim.id)]


class TestOtherHosts:
    def test_one_that_lives_is_seen_by_its_next_sign(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(lease, "EXPIRY", LONG)
        caplog.set_level("INFO", "voxelmill")
        with beating(foreign(tmp_path)):
            message = refused(tmp_path)
        assert "`voxelmill run` on host n7, process" in message
        assert re.search(r"since 2026-11-25 22:05 UTC, with a sign of life \d+ s ago\. Wait", message)
        (line,) = caplog.messages
        assert "host n7" in line
        assert line.endswith("for at most 60 s")

    def test_one_that_died_is_taken(self, tmp_path):
        foreign(tmp_path)
        with hold(tmp_path, "run") as held:
            assert files(tmp_path) == [f"run.{held.id}.json"]

    @pytest.mark.parametrize("content", ["", "{", '{"host": "n7"}', "\x00" * 300])
    def test_a_damaged_file_is_watched_and_taken(self, tmp_path, content):
        """The host went down between the file's name and its content."""
        path = foreign(tmp_path)
        path.write_text(content)
        assert [state.is_alive for state in holders(tmp_path)] == [None]
        with hold(tmp_path, "run") as held:
            assert files(tmp_path) == [f"run.{held.id}.json"]

    @pytest.mark.usefixtures("patient")
    def test_a_damaged_file_that_changes_lives(self, tmp_path):
        path = foreign(tmp_path)
        path.write_text("")
        with beating(path):
            assert "OUT is in use by `voxelmill run`, with a sign" in refused(tmp_path)

    def test_other_files_do_not_count(self, tmp_path):
        (tmp_path / FOLDER).mkdir(parents=True)
        for name in ("run.json", "notes.txt", ".nfs0000001"):
            (tmp_path / FOLDER / name).write_text("")
        with hold(tmp_path, "run"):
            pass

    def test_time_in_which_the_file_system_stands_still_does_not_count(self, tmp_path, monkeypatch):
        """A server that hangs for longer than `EXPIRY` keeps the other's signs of life from arriving, too."""
        path = foreign(tmp_path)
        looks = []

        def hang(out):
            looks.append(out)
            if len(looks) == 2:
                time.sleep(2 * lease.EXPIRY)
            if len(looks) == 4:
                path.write_text(path.read_text() + "\n")
            return real(out)

        real = lease.holders
        monkeypatch.setattr(lease, "holders", hang)
        refused(tmp_path)


class TestShares:
    @pytest.mark.usefixtures("patient")
    def test_shares_of_one_stage_join(self, tmp_path):
        with other(tmp_path, "ingest", "1/3") as one, other(tmp_path, "ingest", "3/3") as three:
            with hold(tmp_path, "ingest", Share(2, 3)) as held:
                assert len(files(tmp_path)) == 3
                assert held.live() == {one.id, three.id, held.id}
            assert len(files(tmp_path)) == 2

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize(
        ("command", "share"),
        [
            ("ingest", Share(1, 3)),  # the same
            ("ingest", Share(2, 4)),  # another way to cut
            ("preprocess", Share(2, 3)),  # another stage
            ("ingest", None),
            ("run", None),
        ],
    )
    def test_others_are_refused(self, tmp_path, command, share):
        with other(tmp_path, "ingest", "1/3"):
            message = refused(tmp_path, command, share, "`voxelmill ingest --share 1/3` on host")
            assert ("Its shares are of 3, this one is of 4." in message) == (share == Share(2, 4))

    @pytest.mark.usefixtures("patient")
    def test_a_share_is_refused_where_one_is_alone(self, tmp_path):
        with other(tmp_path, "run"):
            refused(tmp_path, "ingest", Share(1, 3), "`voxelmill run` on host")

    def test_one_alone_waits_for_every_share(self, tmp_path):
        foreign(tmp_path, "ingest", Share(1, 3))
        foreign(tmp_path, "ingest", Share(3, 3))
        with hold(tmp_path, "run") as held:
            assert files(tmp_path) == [f"run.{held.id}.json"]

    @pytest.mark.usefixtures("patient")
    def test_a_share_leaves_other_shares_of_other_hosts_alone(self, tmp_path):
        path = foreign(tmp_path, "ingest", Share(1, 3))
        with hold(tmp_path, "ingest", Share(2, 3)):
            assert path.exists()
        assert files(tmp_path) == [path.name]

    def test_what_dead_shares_left_is_swept_and_nothing_else(self, tmp_path):
        """A share that writes beside another: its half-written shard stays, that of a killed one goes."""
        elsewhere = foreign(tmp_path, "ingest", Share(4, 4))
        with partial_files.working_for(elsewhere.name.split(".")[1]):
            theirs = partial_files.partial_name(tmp_path / "0")
        theirs.write_text("half")
        with other(tmp_path, "ingest", "1/4") as dead, other(tmp_path, "ingest", "2/4") as alive:
            kill(dead)
            with hold(tmp_path, "ingest", Share(3, 4)) as held:
                mine = partial_files.partial_name(tmp_path / "0")
                mine.write_text("half")
                assert dead.id not in held.live()
                partial_files.sweep(tmp_path, held.live, whole=True)
            assert not dead.left.exists()
            assert alive.left.exists()
            assert theirs.exists()
            assert mine.exists()


class TestLost:
    def test_taken_over_by_another(self, tmp_path):
        """This process was taken for dead after it was suspended; the other one's file stays."""
        with hold(tmp_path, "run") as held:
            (tmp_path / FOLDER / f"run.{held.id}.json").unlink()
            path = foreign(tmp_path)
            with pytest.raises(LeaseError, match="no longer held by this run: another run") as caught:
                check_long(held)
            assert str(tmp_path) not in str(caught.value)
        assert files(tmp_path) == [path.name]

    def test_suspended_and_taken_over(self, tmp_path):
        code = """
            with hold(Path(sys.argv[1]), "run") as held:
                print(held.id, flush=True)
                sys.stdin.readline()
                try:
                    while True:
                        held.check()
                        time.sleep(0.01)
                except LeaseError as error:
                    print(error, flush=True)
        """
        process = python(code, tmp_path)
        run = process.stdout.readline().strip()
        path = tmp_path / FOLDER / f"run.{run}.json"
        process.send_signal(signal.SIGSTOP)
        text = path.read_text()
        path.write_text(text.replace('"boot":"', '"boot":"elsewhere '))  # as another host sees it
        with hold(tmp_path, "run") as held:
            assert files(tmp_path) == [f"run.{held.id}.json"]
            process.send_signal(signal.SIGCONT)
            message, _ = process.communicate("\n", timeout=30)
            assert message.startswith("OUT is no longer held by this run")
            assert process.returncode == 0
            held.check()
            assert files(tmp_path) == [f"run.{held.id}.json"]

    def test_no_sign_of_life_can_be_written(self, tmp_path):
        """The disk is full, say; here, a folder stands in the way."""
        with hold(tmp_path, "run") as held:
            path = tmp_path / FOLDER / f"run.{held.id}.json"
            path.unlink()
            path.mkdir()
            with pytest.raises(
                LeaseError, match=r"no sign of life could be written for 0 s \(Is a directory\)"
            ):
                check_long(held)
            path.rmdir()

    def test_a_short_trouble_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lease, "BEAT", LONG)
        monkeypatch.setattr(lease, "EXPIRY", LONG)
        with hold(tmp_path, "run") as held:
            path = tmp_path / FOLDER / f"run.{held.id}.json"
            text = path.read_bytes()
            path.unlink()
            path.mkdir()
            held._beat()
            held.check()
            path.rmdir()
            path.write_bytes(text)
            held._beat()
            held.check()
            assert path.read_bytes() == text + b"\n"

    def test_a_file_that_was_removed_does_not_come_back(self, tmp_path):
        with hold(tmp_path, "run") as held:
            (tmp_path / FOLDER / f"run.{held.id}.json").unlink()
            with pytest.raises(LeaseError):
                check_long(held)
            assert files(tmp_path) == []
            with hold(tmp_path, "run"), pytest.raises(LeaseError):
                held.check()


def check_long(held):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        held.check()
        time.sleep(0.01)


class TestStatus:
    def test_who_is_there(self, tmp_path):
        assert holders(tmp_path / "missing") == []
        assert live_ids(tmp_path / "missing") == frozenset()
        foreign(tmp_path, "preprocess", Share(2, 2))
        with other(tmp_path, "preprocess", "1/2") as process:
            kill(process)
            dead, away = holders(tmp_path)
        assert (dead.claim.share, dead.is_alive) == (Share(1, 2), False)
        assert dead.holder.process.pid == process.pid
        assert (away.claim.share, away.is_alive) == (Share(2, 2), None)
        assert away.seconds >= 0
        assert str(away).startswith("`voxelmill preprocess --share 2/2` on host n7, process")
        assert live_ids(tmp_path) == {away.claim.id}

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "out").write_text("")
        assert holders(tmp_path / "out") == []

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs another user")
    def test_another_users_process_is_seen(self, tmp_path):
        code = """
            from voxelmill.storage.process_identity import Process
            process = Process.model_validate_json(sys.argv[1])
            os.setuid(65534)
            print(process.look())
        """
        assert python(code, this_process().model_dump_json()).communicate()[0].strip() == "True"


class TestShareText:
    def test_what_it_says(self):
        assert Share.parse("2/4") == Share(2, 4)
        assert str(Share(2, 4)) == "2/4"

    @pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "2/", "a/b", "2/4/6", "-1/4", "2.0/4", "²/4"])
    def test_what_says_nothing(self, text):
        with pytest.raises(ConfigError, match=r"--share is .*: needs i/n with i from 1 to n, such as 2/4\."):
            Share.parse(text)
