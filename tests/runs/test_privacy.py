"""Nothing of who a patient is gets out: not into OUT, not to the terminal, not into names of Dask's tasks.

What identifies somebody is planted wherever a format has a place for it, in cases that work and in cases that
fail, and then looked for in every byte.
"""

import json
import os
import pickle
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
import tifffile
from commands import ENVIRONMENT, call
from distributed import Client, LocalCluster
from pydicom.uid import generate_uid
from readers_support import save_series, series

from voxelmill.basics.errors import ConfigError, FormatError, SettingsChangedError
from voxelmill.basics.safe_tracebacks import place, trace
from voxelmill.config.dicom_settings import DicomConfig
from voxelmill.config.load_settings import load_config
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.pseudonyms import PSEUDONYM, find_salt, pseudonym
from voxelmill.runtime.progress_display import log_to
from voxelmill.runtime.same_versions import these
from voxelmill.runtime.tasks import run_steps, task

WORDS = ["Zebedee", "Quixote", "ID47110815", "19630731", "1.2.826.0.1.99887766"]
"""First and last name, an id, a date of birth, and the root of all UIDs."""

NAME = "Quixote^Zebedee"
SECRET = f"{NAME} ID47110815 19630731"
SALT = "a secret that is long enough"
VOXELS = np.random.default_rng(0).integers(1, 2000, (6, 10, 12)).astype("i2")


def plant_dicom(folder):
    """A good series, and what is wrong with others; folders and files bear the name."""
    tags = {
        "PatientName": NAME, "PatientID": "ID47110815", "PatientBirthDate": "19630731",
        "StudyDate": "19630731",
        "SeriesInstanceUID": "1.2.826.0.1.99887766.1", "StudyInstanceUID": "1.2.826.0.1.99887766.2",
        "SeriesDescription": SECRET, "ReferringPhysicianName": NAME, "InstitutionName": SECRET,
    }  # fmt: skip

    def made(**more):
        pieces = list(series(VOXELS, **(tags | more)))
        for n, piece in enumerate(pieces):
            block = piece.private_block(0x0099, "QUIXOTE", create=True)
            block.add_new(1, "LO", SECRET)
            piece.SOPInstanceUID = piece.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.99887766.9.{n}"
        return pieces

    def save(name, pieces):
        folder.mkdir(exist_ok=True)
        return save_series(
            folder / f"{NAME}_{name}", pieces, [f"Quixote_{n}.dcm" for n in range(len(pieces))]
        )

    save("good_19630731", made())
    save("gap", [p for n, p in enumerate(made()) if n != 3])
    save("several", made()[:3] + made(SeriesInstanceUID="1.2.826.0.1.99887766.7")[3:])
    tilted = made()
    for n, piece in enumerate(tilted):
        piece.ImagePositionPatient = [-10, 20 + 0.7 * n, -30 + 2.5 * n]
    save("tilted", tilted)
    cut = save("cut", made())
    for file in cut.iterdir():
        file.write_bytes(file.read_bytes()[:-300])
    (save("unreadable", made()) / "Quixote_0.dcm").write_bytes(bytes(128) + b"DICM" + SECRET.encode() * 9)


def plant_images(folder):
    """One good and one cut file of each format; ids are the user's own and say nothing."""
    folder.mkdir()
    nifti = nibabel.Nifti1Image(VOXELS.T, np.eye(4))
    nifti.header["descrip"], nifti.header["aux_file"] = NAME, "Zebedee.txt"
    nifti.header["intent_name"], nifti.header["db_name"] = "Quixote", "Zebedee"
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nibabel.save(nifti, folder / "Quixote_1.nii.gz")
    image = sitk.GetImageFromArray(VOXELS)
    for key in ("Comment", "PatientName", "Quixote"):
        image.SetMetaData(key, SECRET)
    for ending in ("mha", "mhd", "nrrd", "nhdr"):
        sitk.WriteImage(image, str(folder / f"Quixote_{ending}.{ending}"))
    nrrd = folder / "Quixote_nrrd.nrrd"
    nrrd.write_bytes(nrrd.read_bytes().replace(b"\n", b"\n# Quixote Zebedee\nPatient:=Zebedee\n", 1))
    tifffile.imwrite(
        folder / "Quixote.tif", VOXELS, photometric="minisblack", description=SECRET, software=SECRET,
        metadata=None, extratags=[(315, 2, 0, SECRET, True)],
    )  # fmt: skip
    tifffile.imwrite(
        folder / "Quixote.ome.tif", VOXELS, photometric="minisblack", ome=True,
        metadata={"axes": "ZYX", "Name": SECRET, "Description": SECRET},
    )  # fmt: skip
    np.save(folder / "Quixote.npy", VOXELS)
    good = sorted(p for p in folder.iterdir() if not p.name.endswith(".raw"))
    rows = []
    for number, path in enumerate(good):
        whole = path.read_bytes()
        cut = path.with_name(f"Zebedee_{path.name}")
        cut.write_bytes(whole[: len(whole) * 2 // 3])
        rows += [{"case": f"good{number}", "image": path.name}, {"case": f"bad{number}", "image": cut.name}]
    rows.append({"case": "absent", "image": "Quixote_nowhere.nii"})
    text = "case,image,spacing\n" + "".join(f'{r["case"]},{r["image"]},"2,1,1"\n' for r in rows)
    (folder / "cases.csv").write_text(text)
    return folder / "cases.csv"


def leaks(content):
    """Which of the words are in some bytes, in any of the encodings that text is kept in."""
    lower = content.lower()
    encodings = ("utf-8", "utf-16-le", "utf-16-be")
    return [word for word in WORDS if any(word.lower().encode(e) in lower for e in encodings)]


def assert_clean(out, *texts):
    """Names and bytes of all that lies in OUT, and what was printed."""
    found = {str(p): leaks(str(p.relative_to(out)).encode()) for p in out.rglob("*")}
    found |= {f"in {p}": leaks(p.read_bytes()) for p in out.rglob("*") if p.is_file()}
    found |= {text[:200]: leaks(text.encode()) for text in texts}
    assert {place_: words for place_, words in found.items() if words} == {}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Below a folder that is called like the patient, too."""
    folder = tmp_path_factory.mktemp("p") / "Quixote_Zebedee"
    folder.mkdir()
    plant_dicom(folder / "dicom")
    return folder / "dicom", plant_images(folder / "images")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1], ids=["dicom", "images"])
class TestWholeRuns:
    def test_a_local_cluster_within_memory(self, planted, tmp_path, kind):
        words = "run", planted[kind], tmp_path / "out", "--workers", "2", "--memory-limit", "400MiB"
        done = call(*words, "--set", 'channels=["CT"]')
        assert done.returncode == 1, done.stderr
        cases = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
        assert {c["status"] for c in cases} == {"done", "failed"}
        assert_clean(tmp_path / "out", done.stdout, done.stderr)
        again = call(*words, "--set", 'channels=["CT"]')
        shown = call("status", tmp_path / "out")
        assert_clean(tmp_path / "out", again.stdout, again.stderr, shown.stdout, shown.stderr)

    def test_shares(self, planted, tmp_path, kind):
        done = [
            call("ingest", planted[kind], tmp_path / "out", "--share", f"{n}/2", "--cluster", "none")
            for n in (1, 2)
        ]
        assert_clean(tmp_path / "out", *(d.stdout + d.stderr for d in done))

    def test_names_of_tasks_and_logs_of_workers(self, planted, tmp_path, kind):
        """What a scheduler that serves others, too, shows on its dashboard, and a worker in its log."""
        with (
            LocalCluster(
                n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
            ) as cluster,
            Client(cluster) as client,
        ):
            log = (tmp_path / "worker.log").open("w")
            words = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
            worker = subprocess.Popen(
                [*words, cluster.scheduler_address], stdout=log, stderr=log, env=ENVIRONMENT
            )
            try:
                client.wait_for_workers(1)
                done = call("run", planted[kind], tmp_path / "out", "--scheduler", cluster.scheduler_address)
                transitions = str(list(cluster.scheduler.transition_log))
                state = str(cluster.scheduler.get_events())
            finally:
                worker.terminate()
                worker.wait()
                log.close()
        assert "ingest-" in transitions
        assert_clean(tmp_path, done.stdout, done.stderr, transitions, state)


class TestPseudonyms:
    def test_of_folders_files_and_one_series(self, planted):
        names = {c.case for c in discover(planted[0]).cases}
        assert len(names) == 6
        assert all(PSEUDONYM.fullmatch(name) for name in names)
        one = next(p for p in planted[0].iterdir() if "good" in p.name)
        (case,) = discover(one).cases
        assert case.case in names
        (file,) = discover(next(one.iterdir())).cases
        assert PSEUDONYM.fullmatch(file.case)
        assert "good_19630731" in "".join(discover(planted[0]).names.values())

    def test_the_same_salt_gives_the_same_and_another_another(self, planted):
        ids = [
            [c.case for c in discover(planted[0], dicom=DicomConfig(salt=salt)).cases]
            for salt in (SALT, SALT, SALT[1:])
        ]
        assert ids[0] == ids[1] == sorted(ids[0])
        assert not set(ids[0]) & set(ids[2])

    def test_the_users_own_salt_is_made_once_by_many(self, tmp_path, monkeypatch):
        """Shares that begin at once on a new account."""
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
        code = (
            "from voxelmill.config.dicom_settings import DicomConfig; "
            "from voxelmill.inputs.sources.pseudonyms import find_salt; "
            "print(find_salt(DicomConfig()))"
        )
        started = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        assert len({process.communicate()[0].strip() for process in started}) == 1
        (file,) = (tmp_path / "home" / "voxelmill").iterdir()
        assert (file.name, oct(file.stat().st_mode)[-3:]) == ("salt", "600")

    def test_without_a_usable_salt(self, planted, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"dicom.salt.*dicom.ids=names"):
            discover(planted[0])
        with pytest.raises(ConfigError, match=r"dicom\.salt holds 5 bytes"):
            find_salt(DicomConfig(salt="short"))
        assert len(discover(planted[0], dicom=DicomConfig(ids="names")).cases) == 6

    def test_mapping(self, planted, tmp_path):
        mapping, out = tmp_path / "mapping.csv", tmp_path / "out"
        runs.process(planted[0], out, dicom={"salt": SALT, "mapping": mapping})
        rows = mapping.read_text().splitlines()
        assert rows[0] == "case,name"
        assert f"{pseudonym(NAME + '_gap', SALT)},{NAME}_gap" in rows
        assert oct(mapping.stat().st_mode)[-3:] == "600"
        assert_clean(out)
        assert SALT.encode() not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
        with pytest.raises(ConfigError, match="within OUT"):
            runs.process(planted[0], out, dicom={"salt": SALT, "mapping": out / "m.csv"})
        (tmp_path / "precious.csv").write_text("mine")
        with pytest.raises(ConfigError, match="no such table"):
            runs.process(planted[0], out, dicom={"salt": SALT, "mapping": tmp_path / "precious.csv"})
        with pytest.raises(SettingsChangedError, match=r"is gone; ids of DICOM cases depend on dicom.salt"):
            runs.process(planted[0], out, dicom={"salt": SALT + "!"})

    def test_neither_salt_nor_names_travel_or_are_shown(self):
        config = load_config(settings=[f'dicom.salt="{SALT}"', 'dicom.mapping="/Quixote"'])
        assert SALT.encode() not in pickle.dumps(config)
        assert b"Quixote" not in pickle.dumps(config)
        assert SALT not in repr(config) + config.model_dump_json()
        assert config.dicom.salt.get_secret_value() == SALT

    def test_a_series_uid_is_written_as_its_hash(self):
        uid = str(generate_uid())
        config = load_config(settings=[f'dicom.series="{uid}"'])
        written = config.model_dump(mode="json")["dicom"]
        assert re.fullmatch("uid-[0-9a-f]{12}", written["series"])
        assert (
            load_config(settings=[f'dicom.series="{written["series"]}"']).model_dump(mode="json")["dicom"]
            == written
        )
        assert load_config(settings=["dicom.series=2"]).model_dump(mode="json")["dicom"] == {"series": "2"}
        assert config.dicom.series == uid


class TestErrors:
    @staticmethod
    def fail(kind):
        try:
            raise kind(SECRET)
        except kind as error:
            raise ValueError(f"in /{NAME}") from error

    def test_what_an_unknown_error_says_is_not_told(self):
        steps = task("x", "c", self.fail, KeyError).steps
        (outcome,) = run_steps(steps, (), run="0" * 12, device="cpu", versions=these())
        assert leaks(f"{outcome.cause} {outcome.details}".encode()) == []
        assert outcome.cause.startswith("ValueError at test_privacy:")
        assert outcome.details.index("KeyError") < outcome.details.index("ValueError")

    def test_an_own_error_keeps_its_words(self):
        assert "Mend the file" in trace(FormatError("Mend the file."))
        assert place(FormatError("x")) == "FormatError"

    def test_the_log_has_places_and_no_words(self, tmp_path):
        with pytest.raises(ValueError, match="in /"), log_to(tmp_path):
            self.fail(OSError)
        text = (tmp_path / "voxelmill.log").read_text()
        assert leaks(text.encode()) == []
        assert "test_privacy" in text


def test_times_of_source_files_are_not_told(planted, tmp_path):
    """Sizes and times of files say when somebody was examined."""
    out, when = tmp_path / "out", 1_234_567_891
    file = planted[1].parent / "Quixote_mha.mha"
    os.utime(file, (when, when))
    report = runs.process(file, out, channels=["zscore"])
    assert [c.status for c in report.cases] == ["done"]
    assert not any(str(when).encode() in p.read_bytes() for p in out.rglob("*") if p.is_file())
