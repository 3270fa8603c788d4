"""Settings: which one wins, and what a wrong one is told."""

import pytest
from pydantic import ValidationError

from voxelmill.basics.errors import ConfigError
from voxelmill.config.load_settings import PRESETS, load_config, make_config
from voxelmill.config.settings import Config, nearest


def toml(folder, text):
    file = folder / "settings.toml"
    file.write_text(text)
    return file


# Precedence


def test_presets_differ_in_labels_and_padding_alone():
    default, nnunet = load_config(), load_config("nnunet")
    assert default == Config() == make_config({})
    assert (default.labels, default.outside_label) == ("nearest", 0)
    dicom = default.dicom.model_copy(update={"padding": "keep"})
    assert nnunet == default.model_copy(update={"labels": "linear", "outside_label": -1, "dicom": dicom})


@pytest.mark.parametrize(
    ("preset", "file", "words", "labels"),
    [
        ("default", None, [], "nearest"),
        ("nnunet", None, [], "linear"),
        ("nnunet", "labels = 'nearest'", [], "nearest"),
        ("nnunet", None, ["labels=nearest"], "nearest"),
        ("default", "labels = 'nearest'", ["labels=linear"], "linear"),
        ("default", "labels = 'linear'", ["labels=linear", "labels=nearest"], "nearest"),
        ("nnunet", "order = 1", [], "linear"),  # what the file does not speak of stays
    ],
)
def test_later_ones_win(tmp_path, preset, file, words, labels):
    path = None if file is None else toml(tmp_path, file)
    assert load_config(preset, path, words).labels == labels


def test_nested_settings_merge_key_by_key(tmp_path):
    file = toml(tmp_path, "order = 2\n[store]\nlevel = 3\nshard_mib = 64\n")
    config = load_config(
        "nnunet", file, ["store.level=9", "store.chunk=[32, 64, 64]", 'dicom.series="1.2.3"']
    )
    assert config.order == 2
    assert config.labels == "linear"
    assert (config.store.level, config.store.shard_mib, config.store.compressor) == (9, 64, "lz4")
    assert config.store.chunk == (32, 64, 64)
    assert config.dicom.series == "1.2.3"


def test_presets_are_not_changed_by_what_is_set_on_top():
    before = {name: dict(values) for name, values in PRESETS.items()}
    load_config("nnunet", None, ["labels=nearest", "store.level=1"])
    assert before == PRESETS


# Values


@pytest.mark.parametrize(
    ("word", "name", "expected"),
    [
        ("order=1", "order", 1),
        (" order = 1 ", "order", 1),
        ("target_spacing=[1, 0.5, 2.25]", "target_spacing", (1.0, 0.5, 2.25)),
        ('configurations=["2d", "fullres"]', "configurations", ("2d", "fullres")),
        ('channels=["CT", "a = b"]', "channels", ("CT", "a = b")),
        ("anti_alias=true", "anti_alias", True),
        ("labels=linear", "labels", "linear"),  # a bare word is a string
        ("labels='linear'", "labels", "linear"),
        ("separate_axis=never", "separate_axis", "never"),
        ("outside_label=-1", "outside_label", -1),
        ("nonfinite=zero", "nonfinite", "zero"),
    ],
)
def test_values_are_toml(word, name, expected):
    config = load_config(settings=[word])
    assert getattr(config, name) == expected
    assert config.model_copy(update={name: getattr(Config(), name)}) == Config()


@pytest.mark.parametrize(
    ("word", "series"), [("dicom.series=2", "2"), ("dicom.series=1.2.840.10008", "1.2.840.10008")]
)
def test_a_series_needs_no_quotes(word, series):
    assert load_config(settings=[word]).dicom.series == series


def test_json_comes_back():
    config = load_config(
        "nnunet", None, ["target_spacing=[1, 1, 3]", "store.chunk=[1, 2, 3]", 'channels=["CT"]']
    )
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        Config().order = 1


# What a wrong one is told: one line each

THREE_MM = "three numbers above 0 (millimetres; z, y, x), such as [1.0, 0.8, 0.8]."
THREE_VOXELS = "three whole numbers above 0 (voxels; z, y, x), such as [64, 64, 64]."
SETS = 'a list of "fullres", "lowres" or "2d", each once, such as ["fullres", "2d"].'


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("order", "--set 'order': found no key=value; write for example --set order=1."),
        ("=1", "--set '=1': found no key=value; write for example --set order=1."),
        ("orderr=1", "setting 'orderr' is unknown; did you mean 'order'?"),
        ("Labels=linear", "setting 'Labels' is unknown; did you mean 'labels'?"),
        ("spacing=[1,1,1]", "setting 'spacing' is unknown; did you mean 'target_spacing'?"),
        ("store.chunks=[1,1,1]", "setting 'store.chunks' is unknown; did you mean 'store.chunk'?"),
        ("chunk=[1,1,1]", "setting 'chunk' is unknown; did you mean 'store.chunk'?"),
        ("dicom.serie=1", "setting 'dicom.serie' is unknown; did you mean 'dicom.series'?"),
        ("order=4", "setting 'order' is 4; expected: a whole number from 0 to 3."),
        ("order=-1", "setting 'order' is -1; expected: a whole number from 0 to 3."),
        (
            "order=x",
            "setting 'order' is 'x'; expected: a whole number from 0 to 3.",
        ),
        ("labels=cubic", "setting 'labels' is 'cubic'; expected: \"nearest\" or \"linear\"."),
        ("nonfinite=nan", 'setting \'nonfinite\' is nan; expected: "fail" or "zero".'),
        ("separate_axis=0", 'setting \'separate_axis\' is 0; expected: "auto" or "never".'),
        ("outside_label=-2", "setting 'outside_label' is -2; expected: 0 or -1."),
        (
            "target_spacing=[1,0,1]",
            f"setting 'target_spacing' is [1, 0, 1]; expected: {THREE_MM}",
        ),
        (
            "target_spacing=[1,inf,1]",
            f"setting 'target_spacing' is [1, inf, 1]; expected: {THREE_MM}",
        ),
        (
            "target_spacing=[1,nan,1]",
            f"setting 'target_spacing' is [1, nan, 1]; expected: {THREE_MM}",
        ),
        ("target_spacing=[1,1]", f"setting 'target_spacing' is [1, 1]; expected: {THREE_MM}"),
        ("configurations=[]", f"setting 'configurations' is []; expected: {SETS}"),
        (
            'configurations=["2d","2d"]',
            f"setting 'configurations' is ['2d', '2d']; expected: {SETS}",
        ),
        (
            'configurations=["3d"]',
            f"setting 'configurations' is ['3d']; expected: {SETS}",
        ),
        (
            "store.shard_mib=0",
            "setting 'store.shard_mib' is 0; expected: a whole number from 1 to 4096 (MiB).",
        ),
        ("store.level=10", "setting 'store.level' is 10; expected: a whole number from 0 to 9."),
        ("store.chunk=[0,1,1]", f"setting 'store.chunk' is [0, 1, 1]; expected: {THREE_VOXELS}"),
        ("store.chunk=[1,1,-4]", f"setting 'store.chunk' is [1, 1, -4]; expected: {THREE_VOXELS}"),
        ("store.compressor=gzip", "setting 'store.compressor' is 'gzip'; expected: \"lz4\" or \"zstd\"."),
        ("a b=1", "--set 'a b=1': 'a b' is no name; write for example --set order=1."),
        (
            'channels="C\nT"',
            "--set 'channels=\"C\\nT\"': the value is not TOML; strings take quotes, lists take brackets.",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(word, line):
    with pytest.raises(ConfigError) as caught:
        load_config(settings=[word])
    assert str(caught.value) == line


def test_an_unknown_preset_is_told_which_there_are():
    with pytest.raises(ConfigError, match=r"^preset 'nnUNet' is unknown; choose one of default, nnunet\.$"):
        load_config("nnUNet")


def test_a_file_that_is_not_there_or_is_not_toml_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)\.$"):
        load_config(file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)\.$"):
        load_config(file=tmp_path)
    with pytest.raises(ConfigError, match=r"is not TOML \(.*line 2.*\)\.$"):
        load_config(file=toml(tmp_path, "order = 1\nlabels = linear\n"))
    (tmp_path / "latin.toml").write_bytes("labels = 'é'".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(file=tmp_path / "latin.toml")


def test_a_wrong_setting_of_a_file_is_told_like_one_of_a_word(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^setting 'store.levels' is unknown; did you mean 'store.level'\?$"
    ):
        load_config(file=toml(tmp_path, "[store]\nlevels = 3\n"))


@pytest.mark.parametrize(
    ("word", "choice"),
    [("shard", "store.shard_mib"), ("SERIES", "dicom.series"), ("config", "configurations")],
)
def test_the_nearest_name(word, choice):
    with pytest.raises(ConfigError, match=f"did you mean '{choice}'"):
        make_config({word: 1})


def test_nearest_takes_the_most_alike():
    assert nearest("abd", ["xyz", "abc", "abcdef"]) == "abc"
