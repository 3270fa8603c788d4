"""A wrong setting is told in a user's words, whatever the setting and wherever it was written."""

import json
import re

import pytest
from pydantic import BaseModel

from voxelmill.basics.errors import ConfigError, StoreError
from voxelmill.config.load_settings import load_config, make_config
from voxelmill.config.settings import Config
from voxelmill.runs.run_function import _settings
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.raw_store.raw_records import DatasetRecord

NO_NUMBER = ["x", [1], {"a": 1}, True]
NO_CHOICE = ["x", "", 7, [1, 2], {"a": 1}, 1.5]
NO_TRUTH = ["x", "maybe", 7, [True], {"a": 1}, 1.5]
NO_TEXT = [True, [1], ["a"], {"a": 1}]
NO_TEXTS = ["one", 1, [1, 2], [True], {"a": 1}]
NO_SIZE = ["x", "", 4, "4", 0, -5, "4 apples", "GiB", True, [1], {"a": 1}, 1.5, "-1GiB", float("nan")]

WRONG = {
    "target_spacing": [
        *(1, "1", [], [1, 1], [1, 1, 1, 1], [1, 0, 1], [-1, 1, 1], ["x", 1, 1], [1, 1, True], {"z": 1}),
        *([1, 1, float("inf")], [float("nan"), 1, 1], [[1, 1, 1]]),
    ],
    "configurations": ["2d", 1, [], ["2d", "2d"], ["3d"], [1], [True], {"a": 1}],
    "channels": NO_TEXTS,
    "order": [*NO_NUMBER, 4, -1, 1.5, float("nan"), "", None],
    "order_separate": [*NO_NUMBER, 4, -1, 1.5],
    "separate_axis": NO_CHOICE,
    "anti_alias": NO_TRUTH,
    "labels": [*NO_CHOICE, "cubic", "Nearest"],
    "outside_label": [*NO_CHOICE, 1, -2, False],
    "nonfinite": [*NO_CHOICE, float("nan")],
    "memory_limit": NO_SIZE,
    "no_worker_timeout": [*NO_NUMBER, -1, float("nan"), "5 minutes"],
    "check_disk": NO_TRUTH,
    "cluster.queue": NO_TEXT,
    "cluster.account": NO_TEXT,
    "cluster.walltime": NO_TEXT,
    "cluster.cores": [*NO_NUMBER, 0, -1, 1.5],
    "cluster.processes": [*NO_NUMBER, 0, -1, 1.5],
    "cluster.memory": NO_SIZE,
    "cluster.job_extra_directives": ["--exclusive", True, {"a": 1}, [True]],
    "cluster.job_script_prologue": ["module load python", True, {"a": 1}, [True]],
    "cluster.interface": NO_TEXT,
    "cluster.minimum": [*NO_NUMBER, -1, 1.5],
    "cluster.lifetime": [*NO_NUMBER, -1, float("nan"), float("inf"), "1 hour"],
    "dicom.series": NO_TEXT,
    "dicom.padding": NO_CHOICE,
    "dicom.ids": NO_CHOICE,
    "dicom.salt": [5, True, [1], {"pepper": 1}],
    "dicom.mapping": [5, True, [1], {"a": 1}],
    "ingest.copy": NO_TRUTH,
    "ingest.outside": NO_TRUTH,
    "repair.irregular": NO_CHOICE,
    "repair.duplicates": NO_CHOICE,
    "repair.shear": NO_CHOICE,
    "repair.grids": NO_CHOICE,
    "repair.affine": NO_CHOICE,
    "repair.pixdim": NO_CHOICE,
    "store.chunk": [1, "1", [1, 1], [0, 1, 1], [1, -1, 1], [1, 1, 1.5], ["x", 1, 1], [1, 1, True], {"z": 1}],
    "store.shard_mib": [*NO_NUMBER, 0, 4097, 1.5, "128MiB"],
    "store.compressor": [*NO_CHOICE, "gzip"],
    "store.level": [*NO_NUMBER, -1, 10, 1.5],
    "cluster": [1, "slurm", True, [1]],
    "dicom": [1, "x", True, [1]],
    "ingest": [1, "x", True, [1]],
    "repair": [1, "fill", True, [1]],
    "store": [1, "x", True, [1]],
}
"""A row a setting, and a row a table of them."""

PYDANTIC = re.compile(
    r"input|field required|valid |parse|pydantic|type=|extra inputs|extra_forb|literal_err|instance of",
    re.I,
)


def names_of(model, prefix=""):
    for name, field in model.model_fields.items():
        called = prefix + (field.alias or name)
        yield called
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names_of(field.annotation, f"{called}.")


def test_every_setting_has_a_row():
    assert set(WRONG) == set(names_of(Config))


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def as_toml(value):
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {as_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value) if isinstance(value, bool | str) else repr(value)


def by_word(name, value, folder):
    load_config(settings=[f"{name}={as_toml(value)}"])


def by_file(name, value, folder):
    (folder / "settings.toml").write_text(f"{name} = {as_toml(value)}\n")
    load_config(file=folder / "settings.toml")


def by_dictionary(name, value, folder):
    make_config(nested(name, value))


def by_keyword(name, value, folder):
    Config(**nested(name, value))


def by_plan(name, value, folder):
    try:
        Plan.parse(json.dumps({"settings": nested(name, value)}).encode(), "plan.json in OUT")
    except StoreError as error:
        found = re.fullmatch(
            r"plan.json in OUT is damaged or of another version \((.*)\). Run `voxelmill plan OUT` again.",
            str(error),
        )
        raise ConfigError(f"{found[1]}.") from None


WAYS = [by_word, by_file, by_dictionary, by_keyword, by_plan]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_told_in_a_users_words(name, way, tmp_path):
    for value in WRONG[name]:
        if value is None and way in (by_word, by_file):
            continue  # TOML has no word for it
        with pytest.raises(ConfigError) as caught:
            way(name, value, tmp_path)
        line = str(caught.value)
        assert re.fullmatch(rf"setting '{re.escape(name)}' is .*\.", line)  # one line
        assert not PYDANTIC.search(line.replace(repr(value), "").replace(name, "")), line
        assert "; expected: " in line
        found, expected = line.split("; expected: ")
        assert (repr(value) if name != "dicom.salt" else "not usable") in found, line
        assert expected != "another value."


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("ordr", "order"),
        ("spacing", "target_spacing"),
        ("store.chunks", "store.chunk"),
        ("chunk", "store.chunk"),
        ("outside", "ingest.outside"),
        ("ingest.out_side", "ingest.outside"),
        ("ingest.copy_", "ingest.copy"),
        ("dicom.pading", "dicom.padding"),
        ("padding", "dicom.padding"),
        ("cluster.que", "cluster.queue"),
        ("repair.sheer", "repair.shear"),
        ("memory-limit", "memory_limit"),
    ],
)
def test_an_unknown_setting_is_told_the_closest(name, closest, way, tmp_path):
    with pytest.raises(ConfigError) as caught:
        way(name, 1, tmp_path)
    line = str(caught.value).rstrip(".")
    assert line == f"setting {name!r} is unknown; did you mean {closest!r}?"


@pytest.mark.parametrize("config", ["settings.toml", 1, ["order=1"], b"x"])
def test_a_config_that_is_none(config):
    line = f'config is {config!r}; expected: a Config, or settings by their names, such as {{"order": 1}}.'
    with pytest.raises(ConfigError) as caught:
        _settings(config, None)
    assert str(caught.value) == line


def test_a_name_that_is_no_text():
    with pytest.raises(ConfigError, match=r"^setting '1' is unknown"):
        make_config({1: 2})


def test_a_long_value_is_cut_and_stays_one_line():
    with pytest.raises(ConfigError) as caught:
        make_config({"order": "a\nb " * 100})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_secret_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        make_config({"dicom": {"salt": ["hunter2hunter2hunter2"]}})
    assert "hunter2" not in str(caught.value)


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("4gib", 4 * 2**30),
        ("4 GIB", 4 * 2**30),
        (" 4Gi ", 4 * 2**30),
        ("1gb", 10**9),
        ("1GB", 10**9),
        ("1g", 10**9),
        ("1.5 mb", 1_500_000),
        ("512MiB", 2**29),
        ("1tib", 2**40),
        ("4294967296", 2**32),
        ("4294967296b", 2**32),
        (4294967296, 2**32),
        (4e9, 4 * 10**9),
    ],
)
def test_sizes_are_read_as_dask_reads_them(text, size):
    assert make_config({"memory_limit": text, "cluster": {"memory": text}}).memory_limit == size
    assert load_config(memory_limit=str(text)).memory_limit == size if isinstance(text, str) else True


@pytest.mark.parametrize("text", ["4", "1", "0", "1000"])
def test_a_size_without_a_unit_is_told_how_it_was_read(text):
    with pytest.raises(ConfigError) as caught:
        load_config(memory_limit=text)
    size = f"{text} byte" + ("" if text == "1" else "s")
    assert str(caught.value) == (
        f"setting 'memory_limit' is '{text}', which is {size}; expected: a size with its unit, "
        'such as "4GiB".'
    )


# Files of OUT


GOOD = {"revision": 1, "version": "1", "settings": {}, "channel_names": ["CT"]}
FACTS = {"mean": 1.0, "std": 1.0, "min": 0.0, "max": 2.0, "median": 1.0}
FACTS |= {"percentile_00_5": 0.0, "percentile_99_5": 2.0}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("{}", "revision is missing; expected: a whole number"),
        ("[1]", "is [1]; expected: "),
        (GOOD | {"revision": "one"}, "revision is 'one'; expected: a whole number"),
        (GOOD | {"channel_names": "CT"}, "channel_names is 'CT'; expected: a list of texts"),
        (GOOD | {"intensity": 1}, "intensity is 1; expected: a table"),
        (GOOD | {"intensity": {"0": FACTS | {"max": "x"}}}, "intensity.0.max is 'x'; expected: a number"),
        (GOOD | {"intensity": {"0": FACTS | {"maxx": 1}}}, "intensity.0.maxx is unknown"),
    ],
)
def test_a_plan_that_was_edited_is_told_in_a_users_words(plan, words):
    content = plan if isinstance(plan, str) else json.dumps(plan)
    with pytest.raises(StoreError) as caught:
        Plan.parse(content.encode(), "the file of --plan")
    line = str(caught.value)
    assert re.fullmatch(r"the file of --plan is damaged or of another version \(.*\)\. Run .* again\.", line)
    assert words in line
    assert not PYDANTIC.search(line)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "revision is missing; expected: a whole number"),
        ({"revision": "x"}, "revision is 'x'; expected: a whole number"),
    ],
)
def test_a_raw_store_that_was_edited_is_told_in_a_users_words(attributes, words):
    with pytest.raises(StoreError) as caught:
        DatasetRecord.read(attributes)
    assert words in str(caught.value)
    assert not PYDANTIC.search(str(caught.value))
