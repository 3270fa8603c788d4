"""What a user typed and is refused: the line on the terminal repeats it, and nothing else holds it."""

import datasets
import pytest
import typer
from commands import call, within

from voxelmill.basics.errors import SourceError, VoxelmillError
from voxelmill.cli.commands import app
from voxelmill.cli.typed_words import repeat, typed_words

TOP = typer.main.get_command(app)
WORDS = {parameter.name for parameter in TOP.commands["run"].params}

REFUSED = {
    # parameter: words of a run, and what of them the line repeats
    "source": [
        ("run Quixote out", "Quixote"),  # no such path
        ("run ./Quixote_texts/ out", "./Quixote_texts/"),  # no images
        ("run Quixote_texts/a.txt out", "Quixote_texts/a.txt"),
        ("run s3://Quixote/raw out", "s3://Quixote/raw"),
        ("run Quixote.csv out", "Quixote.csv"),  # a manifest without rows
        ("run raw .", "raw"),
        ("run ~/Quixote out", "~/Quixote"),
    ],
    "out": [
        ("run raw Quixote_texts/a.txt", "Quixote_texts/a.txt"),  # a file
        ("run raw Quixote_texts/a.txt/out", "Quixote_texts/a.txt/out"),
        ("run raw gs://Quixote/out", "gs://Quixote/out"),
        ("run raw raw/Quixote", "raw/Quixote"),
        ("run raw/ raw//Quixote", "raw//Quixote"),
        ("run raw ./raw", "./raw"),
        ("run raw Quixote_images", "Quixote_images"),  # images of others
        (f"run raw {'Quixote' * 40}", "Quixote" * 40),  # too long
    ],
    "frozen": [
        ("run raw out --plan Quixote.json", "Quixote.json"),
        ("run raw out --plan=./Quixote_texts", "./Quixote_texts"),
        ("run raw out --plan Quixote_texts/a.txt", "Quixote_texts/a.txt"),
        ("run raw out --plan s3://Quixote/plan.json", "s3://Quixote/plan.json"),
    ],
    "preset": [("run raw out --preset Quixote", "Quixote")],
    "config": [
        ("run raw out --config Quixote.toml", "Quixote.toml"),
        ("run raw out --config Quixote_texts", "Quixote_texts"),
        ("run raw out --config ./Quixote_texts/a.txt", "./Quixote_texts/a.txt"),
        ("run raw out --config Quixote_texts/wrong.toml", "Quixote_texts/wrong.toml"),  # what it states
    ],
    "set_": [
        ("run raw out --set Quixote", "Quixote"),
        ("run raw out --set Quixote=1", "Quixote=1"),
        ("run raw out --set order=9", "order=9"),
        ("run raw out --set order=1 --set target_spacing=[1,1]", "target_spacing=[1,1]"),
        ("run raw out --set store.level=Quixote --set order=1", "store.level=Quixote"),
        ("run raw out --set dicom.mapping=s3://Quixote.csv", "dicom.mapping=s3://Quixote.csv"),
        ("run raw out --set dicom.mapping=out/Quixote.csv", "dicom.mapping=out/Quixote.csv"),
        ('run two.csv out --set channels=["Quixote"]', "--set 'channels=[\"Quixote\"]'"),
    ],
    "memory_limit": [
        ("run raw out --memory-limit Quixote", "Quixote"),
        ("run raw out --memory-limit 4", "4"),
        ("run raw out --memory-limit 17MiB", "17MiB"),
    ],
    "device": [("run raw out --device Quixote", "Quixote")],
    "workers": [
        ("run raw out --workers Quixote", "Quixote"),
        ("run raw out --workers 0", "--workers is 0"),
        ("run raw out --workers=-7", "-7"),
    ],
    "cluster": [("run raw out --cluster Quixote", "Quixote")],
    "scheduler": [
        ("run raw out --scheduler Quixote.json", "Quixote.json"),
        ("run raw out --scheduler Quixote", "Quixote"),
        ("run raw out --scheduler ./Quixote_texts/a.txt", "./Quixote_texts/a.txt"),
    ],
    "dry_run": [("run raw out --dry-run --cluster none", "--dry-run")],
    "restart": [],  # of themselves they ask for nothing that can be refused
    "show_files": [],
}
OTHERS = [
    ("status Quixote", "Quixote"),
    ("verify ./Quixote", "./Quixote"),
    ("fingerprint Quixote", "Quixote"),
    ("plan Quixote", "Quixote"),
    ("preprocess Quixote", "Quixote"),
    ("ingest raw out --share Quixote", "Quixote"),
    ("ingest raw out --share 3/2", "3/2"),
    ("demo s3://Quixote", "s3://Quixote"),
    ("demo out --workers Quixote", "Quixote"),
]
ROWS = [row for rows in REFUSED.values() for row in rows] + OTHERS


def test_every_word_of_a_run_has_a_row():
    assert REFUSED.keys() == WORDS


@pytest.fixture
def place(tmp_path, monkeypatch):
    datasets.nnunet(tmp_path / "raw")
    (tmp_path / "Quixote_texts").mkdir()
    (tmp_path / "Quixote_texts" / "a.txt").write_text("no image")
    (tmp_path / "Quixote_texts" / "wrong.toml").write_text("ordr = 1\n")
    (tmp_path / "Quixote.csv").write_text("case,CT\n")
    (tmp_path / "two.csv").write_text("case,CT,T1\na,raw/imagesTr/a_0000.nii.gz,raw/imagesTr/b_0000.nii.gz\n")
    datasets.nnunet(tmp_path / "Quixote_images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def held(out):
    """Every byte of a folder, and every name in it."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return b"\n".join(
        [*(path.read_bytes() for path in files), *(str(p.relative_to(out)).encode() for p in files)]
    )


@pytest.mark.parametrize(("words", "typed"), ROWS, ids=lambda text: text[:60])
def test_a_refusal_repeats_what_was_typed(place, words, typed):
    words = words.split()
    with pytest.raises(VoxelmillError) as caught:
        within(*words)
    about = "SOURCE" if isinstance(caught.value, SourceError) else ""
    line = repeat(str(caught.value), typed_words(TOP, words), about)
    assert typed in line
    assert "\n" not in line
    assert b"Quixote" not in held(place / "out")


@pytest.mark.parametrize("words", ["run raw ./Quixote_texts/a.txt", "run raw out --plan ./Quixote_texts"])
def test_on_a_terminal(place, words):
    done = call(*words.split(), cwd=place)
    assert done.returncode == 2
    assert f"({words.split()[-1]!r})" in done.stderr.splitlines()[-1]


class TestRepeat:
    """A table of lines, what was typed, and what becomes of them."""

    @pytest.mark.parametrize(
        ("line", "typed", "expected"),
        [
            # beside the first mention, once
            ("OUT is a file. Name another OUT.", {"OUT": ["x"]}, "OUT ('x') is a file. Name another OUT."),
            ("SOURCE is OUT.", {"SOURCE": ["a"], "OUT": ["b"]}, "SOURCE ('a') is OUT ('b')."),
            ("--plan: not there.", {"--plan": ["p"]}, "--plan ('p'): not there."),
            # at the end where it is a part of other words
            ("OUT's disk is full.", {"OUT": ["x"]}, "OUT's disk is full. (OUT: 'x')"),
            ("OUT/plan.json is not there.", {"OUT": ["x"]}, "OUT/plan.json is not there. (OUT: 'x')"),
            # not in commands to copy, nor in words that only begin so
            ("Run `voxelmill plan OUT` first.", {"OUT": ["x"]}, "Run `voxelmill plan OUT` first."),
            ("Run `plan OUT`: OUT has none.", {"OUT": ["x"]}, "Run `plan OUT`: OUT ('x') has none."),
            ("TIMEOUT of --planner", {"OUT": ["x"], "--plan": ["p"]}, "TIMEOUT of --planner"),
            # not in advice, which has a value of its own
            ("Pass --workers 3.", {"--workers": ["70"]}, "Pass --workers 3. (--workers: '70')"),
            # not twice
            ("--config a.toml: no.", {"--config": ["a.toml"]}, "--config a.toml: no."),
            ("--workers is 0; no.", {"--workers": ["0"]}, "--workers is 0; no."),
            ("SOURCE: 'a' is not there.", {"SOURCE": ["a"]}, "SOURCE: 'a' is not there."),
            # where settings come from: the last word that states it, or what states many
            (
                "setting 'order' is 9.",
                {"--set": ["order=1", "order=9"]},
                "setting 'order' is 9. (--set 'order=9')",
            ),
            ("setting 'a.b' is 9.", {"--set": ["a={b=9}"]}, "setting 'a.b' is 9. (--set 'a={b=9}')"),
            ("setting 'ab' is 9.", {"--set": ["a=1"]}, "setting 'ab' is 9."),
            (
                "setting 'a' is 9.",
                {"--config": ["c"], "--preset": ["p"]},
                "setting 'a' is 9. (--preset 'p' or --config 'c')",
            ),
            ("order was 3, is 1.", {"--set": ["order=1"]}, "order was 3, is 1. (--set 'order=1')"),
            ("files in the order of names", {"--set": ["order=1"]}, "files in the order of names"),
            ("Set a.b=true for it.", {"--set": ["a.b=false"]}, "Set a.b=true for it."),
            # a secret stays one
            ("setting 'dicom.salt' is no.", {"--set": ["dicom.salt=s"]}, "setting 'dicom.salt' is no."),
            ("setting 'dicom.salt' is no.", {"--set": ["dicom={salt='s'}"]}, "setting 'dicom.salt' is no."),
            # what is no character shows as its number
            ("OUT is a file.", {"OUT": ["a\nb"]}, "OUT ('a\\nb') is a file."),
        ],
    )
    def test_table(self, line, typed, expected):
        assert repeat(line, typed) == expected

    def test_words_are_those_of_the_command_line(self):
        words = ["run", "--set", "a=1", "./raw/", "--set=b=2", "--restart", "--plan=~/p", "out"]
        found = typed_words(TOP, words)
        assert found == {"SOURCE": ["./raw/"], "OUT": ["out"], "--plan": ["~/p"], "--set": ["a=1", "b=2"]}
        assert typed_words(TOP, ["verify", "out", "--source", "x"])["SOURCE"] == ["x"]

    def test_what_a_line_is_about(self):
        assert repeat("row 1: no.", {"SOURCE": ["a"]}, "SOURCE") == "row 1: no. (SOURCE: 'a')"
        assert repeat("SOURCE is no.", {"SOURCE": ["a"]}, "SOURCE") == "SOURCE ('a') is no."
        assert repeat("row 1: no.", {"OUT": ["a"]}, "SOURCE") == "row 1: no."
