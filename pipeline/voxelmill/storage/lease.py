"""The lease on OUT: one run, or the shares of one stage, hold OUT at a time; all others are refused.

In: OUT, a command and its share. Out: a `Lease` while the run lasts, or a `LeaseError` that says who holds
OUT. This module knows no stage and no store. It uses no file locks and compares no clocks.

Each holder has a file in OUT/logs/lease with a unique name. A run first writes its own file, then looks for
others: of two runs that begin at once, at least one sees the other. Several runs can remove a dead holder's
file at once without removing another's. A sign of life appends a newline to the file: a delayed write, from a
server that hung, cannot bring back a file that was removed.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from voxelmill.basics.errors import CANNOT, ConfigError, LeaseError, LeaseLostError, system_message
from voxelmill.basics.record_base import Model
from voxelmill.basics.stage_share import Share
from voxelmill.storage import partial_files
from voxelmill.storage.process_identity import Process, this_process

logger = logging.getLogger("voxelmill")

FOLDER = Path("logs", "lease")

BEAT = 10.0
"""Seconds between two signs of life."""

EXPIRY = 60.0
"""Seconds without a sign of life after which a holder on another host counts as dead."""

SETTLE = 5.0
"""Seconds that a run waits for another one, which began at the same time, to step back."""

TRIES = 10
"""Attempts to make the folder of leases, which other runs remove when they end."""

NAME = re.compile(rf"([a-z]+)(?:-([1-9][0-9]*)of([1-9][0-9]*))?\.({partial_files.ID})\.json")

VANISHED = (errno.ENOENT, errno.ESTALE)
"""Error codes of a file system for a file that another host has removed."""


class Holder(Model):
    """Content of a holder's file; its name holds the rest, see `Claim`.

    Attributes
    ----------
    process : Process
        The process that holds OUT.
    started : str
        Time when it asked for OUT: ISO 8601, UTC.
    """

    process: Process
    started: str


@dataclass(frozen=True)
class Claim:
    """The command or share that holds OUT, as stated in the name of the holder's file.

    Attributes
    ----------
    command : str
        Name of the command.
    share : Share or None
        None if the command claims all of OUT.
    id : str
        Random id of the run; its temporary names contain it, see `partial_files`.
    """

    command: str
    share: Share | None
    id: str

    @property
    def file(self) -> str:
        """Name of the holder's file."""
        return f"{self.command}{self.share.suffix if self.share else ''}.{self.id}.json"

    @classmethod
    def of_file(cls, name: str) -> Claim | None:
        """Return the claim in the name of a file, or None if it is not a holder's file."""
        found = NAME.fullmatch(name)
        if found is None:
            return None
        command, index, count, run = found.groups()
        return cls(command, Share(int(index), int(count)) if index else None, run)

    def excludes(self, other: Claim) -> bool:
        """Return whether the two cannot hold OUT together; different shares i/n of one stage can."""
        if self.share is None or other.share is None:
            return True
        together = self.command == other.command and self.share.count == other.share.count
        return not together or self.share.index == other.share.index

    def __str__(self) -> str:
        return f"`voxelmill {self.command}{f' --share {self.share}' if self.share else ''}`"


@dataclass(frozen=True)
class HolderState:
    """A holder of OUT, as found on disk.

    Attributes
    ----------
    path : Path
        The holder's file.
    claim : Claim
        Its claim, from the name of the file.
    holder : Holder or None
        None if its file is damaged or not readable for this user.
    content : bytes
        Content of the file; every sign of life changes it.
    seconds : float
        Seconds since the last sign of life, by the clocks of two hosts: for messages, not for decisions.
    is_alive : bool or None
        None if only watching the file can tell.
    """

    path: Path
    claim: Claim
    holder: Holder | None
    content: bytes
    seconds: float
    is_alive: bool | None

    def __str__(self) -> str:
        sign = f"with a sign of life {self.seconds:.0f} s ago"
        if self.holder is None:
            return f"{self.claim}, {sign}"
        process = self.holder.process
        since = f"{self.holder.started[:16].replace('T', ' ')} UTC"
        return f"{self.claim} on host {process.host}, process {process.pid}, since {since}, {sign}"


class Lease:
    """The right of this process to write to OUT, until `check` raises.

    Attributes
    ----------
    id : str
        Id of the run.
    """

    def __init__(self, out: Path, claim: Claim) -> None:
        self.id = claim.id
        self._out = out
        self._path = out / FOLDER / claim.file
        self._beaten = _now()
        self._lost = ""
        self._stop = threading.Event()

    def check(self) -> None:
        """Check that this run still holds OUT.

        Raises
        ------
        LeaseLostError
            If another run took this process for dead, or may have: it gave no sign of life for too long.
        """
        if _now() - self._beaten > EXPIRY / 2:  # the thread could not run, or its write hangs
            self._beat()
        if self._lost:
            raise LeaseLostError(
                f"OUT is no longer held by this run: {self._lost}. Run the same command again."
            )

    def live(self) -> frozenset[str]:
        """Return the ids of this run and of all others that hold OUT; see `live_ids`."""
        return live_ids(self._out) | {self.id}

    @contextmanager
    def _beating(self) -> Iterator[None]:
        thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=1)  # with a timeout, because its write may hang

    def _beat_on(self) -> None:
        while not self._lost and not self._stop.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        try:
            with self._path.open("r+b") as file:  # "ab" would bring back a file that was removed
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
        except OSError as error:
            if error.errno in VANISHED:
                self._lost = "another run has taken it over, or its folder was removed"
            elif _now() - self._beaten > EXPIRY:
                self._lost = f"no sign of life could be written for {EXPIRY:.0f} s ({error.strerror})"
        else:
            self._beaten = _now()


def _now() -> float:
    """Return seconds of a clock that, if the host has one, also runs while it sleeps: other hosts do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@contextmanager
def hold(out: Path, command: str, share: Share | None = None) -> Iterator[Lease]:
    """Hold OUT for a command or a share of it; temporary names made in this thread contain its id.

    A holder whose process on this host has ended is removed at once. One on another host is watched for at
    most `EXPIRY` seconds, until it gives a sign of life or counts as dead.

    Raises
    ------
    LeaseError
        If another run holds OUT.
    ConfigError
        If OUT's file system does not let files be written and renamed.
    """
    claim = Claim(command, share, partial_files.new_id())
    path = out / FOLDER / claim.file
    new = [folder for folder in (path.parent, path.parent.parent, out) if not folder.exists()]
    partial_files.sweep(path.parent, frozenset())  # probes of `live_ids`, which may be removed at any time
    _remove_dead(out, claim)
    try:
        _announce(path)
        lease = Lease(out, claim)
        _look_again(out, claim)
        with lease._beating(), partial_files.working_for(claim.id):
            yield lease
    finally:
        with suppress(OSError):  # a file that stays counts as dead; do not hide the error of the run
            path.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()  # only empty folders: a run that was refused leaves nothing behind


def holders(out: Path) -> list[HolderState]:
    """Return all holders of OUT, dead ones included, sorted by command and share."""
    try:
        paths = sorted((out / FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    states = [_read(path, claim) for path in paths if (claim := Claim.of_file(path.name))]
    return [state for state in states if state is not None]


def live_ids(out: Path) -> frozenset[str]:
    """Return the ids of the holders of OUT, except for processes of this host that have ended.

    A holder on another host counts as long as its file exists. Any process may call this, workers too.
    """
    folder = out / FOLDER
    if not folder.exists():
        return frozenset()
    probe = partial_files.partial_name(folder / "look")
    probe.touch()  # a change makes an NFS client drop its cached listing, so that new holders are seen
    probe.unlink(missing_ok=True)
    return frozenset(state.claim.id for state in holders(out) if state.is_alive is not False)


def _read(path: Path, claim: Claim) -> HolderState | None:
    """Return the state of a holder, or None if its file is gone."""
    try:
        with path.open("rb") as file:
            content, written = file.read(), os.fstat(file.fileno()).st_mtime
    except PermissionError:  # another user's file: we cannot tell that the holder is dead
        return HolderState(path, claim, None, b"", 0.0, True)
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise
    try:
        holder = Holder.model_validate_json(content)
    except ValidationError:
        holder = None
    seconds = max(0.0, time.time() - written)
    return HolderState(path, claim, holder, content, seconds, holder.process.look() if holder else None)


def _rivals(out: Path, claim: Claim) -> list[HolderState]:
    return [s for s in holders(out) if s.claim.id != claim.id and claim.excludes(s.claim)]


def _remove_dead(out: Path, claim: Claim) -> None:
    """Remove dead holders that exclude a claim; refuse the claim at the first sign of life of one.

    Only the pauses between two looks count, so no holder expires while the file system or this host hangs.
    """
    pause = min(1.0, BEAT / 4)
    watched: dict[str, tuple[bytes, int]] = {}
    while rivals := _rivals(out, claim):
        for rival in rivals:
            content, pauses = watched.get(rival.claim.id, (rival.content, 0))
            if rival.is_alive or rival.content != content:
                raise _refusal(rival, claim)
            if rival.is_alive is False or pauses * pause >= EXPIRY:
                rival.path.unlink(missing_ok=True)
                logger.info("%s is dead: OUT is free of it", rival.claim)
                continue
            if not pauses:
                logger.info("OUT was in use by %s: watching for another, for at most %.0f s", rival, EXPIRY)
            watched[rival.claim.id] = content, pauses + 1
        if any(rival.is_alive is None for rival in rivals):
            time.sleep(pause)


def _announce(path: Path) -> None:
    """Write the holder's file. A half-written one counts as a holder whose process cannot be seen."""
    holder = Holder(process=this_process(), started=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        with _in_its_folder(path) as file:
            file.write(holder.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        partial_files.try_to_write(path.parent)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        raise ConfigError(system_message(error)) from None


def _in_its_folder(path: Path) -> BinaryIO:
    """Open a new file in its folder, which is made again if another run removes it meanwhile."""
    for _ in range(TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return path.open("xb")
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _look_again(out: Path, claim: Claim) -> None:
    """Refuse the claim if a new holder appeared; of two that begin at once, only the lower id may stay."""
    end = time.monotonic() + SETTLE
    while rivals := [rival for rival in _rivals(out, claim) if rival.is_alive is not False]:
        if time.monotonic() > end or any(rival.claim.id < claim.id for rival in rivals):
            raise _refusal(rivals[0], claim)
        time.sleep(0.05)


def _refusal(rival: HolderState, claim: Claim) -> LeaseError:
    theirs, ours = rival.claim.share, claim.share
    hint = ""
    if theirs and ours and rival.claim.command == claim.command and theirs.count != ours.count:
        hint = f" Its shares are of {theirs.count}, this one is of {ours.count}."
    return LeaseError(f"OUT is in use by {rival}.{hint} Wait for it, stop it, or use another OUT.")
