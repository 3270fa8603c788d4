"""`voxelmill config`: every setting with its meaning, as TOML that is read back to the same configuration."""

import re
import tomllib

import pytest
from commands import call
from pydantic import BaseModel

from voxelmill.config.load_settings import load_config
from voxelmill.config.settings import Config
from voxelmill.config.settings_as_toml import WIDTH, config_text

LINE = re.compile(r"(# )?(\w+) = (.+)")


def read_back(text, folder):
    file = folder / "settings.toml"
    file.write_text(text)
    return load_config(file=file)


def fields_of(model, table=""):
    """Every field that holds no table, with the table that it is in."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, name)
        else:
            yield table, field.alias or name, field


def blocks_of(text):
    """The text of every setting, by its table and name."""
    table, found = "", {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("[")]
        table = next((line[1:-1] for line in block.splitlines() if line.startswith("[")), table)
        if lines and (last := LINE.fullmatch(lines[-1])):
            found[table, last[2]] = " ".join(line.removeprefix("# ") for line in lines)
    return found


FIELDS = list(fields_of(Config))


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("default", []),
        ("nnunet", []),
        ("default", ["order=1", "target_spacing=[1, 0.5, 2.25]", 'channels=["CT", "a = \\"b\\""]']),
        ("default", ['configurations=["2d", "fullres"]', "store.chunk=[1, 2, 3]", "outside_label=-1"]),
        ("default", ["memory_limit=1gb", "cluster.memory=4GiB", "no_worker_timeout=inf"]),
        ("default", ["cluster.job_extra_directives=['--a=\"b\\c\"']", 'dicom.mapping="/tmp/ä.csv"']),
        ("nnunet", ["ingest.copy=false", "ingest.outside=true", "repair.shear=undo", "check_disk=false"]),
    ],
)
def test_it_is_read_back_to_the_same_configuration(preset, words, tmp_path):
    config = load_config(preset, settings=words)
    assert read_back(config_text(config), tmp_path) == config


def test_all_that_can_be_said_has_been_said(tmp_path):
    text = config_text(Config())
    stated = tomllib.loads(text)
    for table, name, field in FIELDS:
        within = stated[table] if table else stated
        assert (name in within) == (field.default is not None), name
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(("table", "name", "field"), FIELDS, ids=lambda v: v if isinstance(v, str) else "")
def test_each_setting_is_there_with_its_meaning(table, name, field):
    block = blocks_of(config_text(Config()))[table, name]
    assert field.description
    assert " ".join(field.description.split()) in block
    assert re.search(r"\. It takes .+\. ", block)
    if field.default is not None:
        assert f"; default: {block.rpartition(' = ')[2]}. " in block
    unit = (field.json_schema_extra or {}).get("unit")
    assert unit is None or f"({unit})" in block


@pytest.mark.parametrize("name", ["target_spacing", "no_worker_timeout", "shard_mib", "chunk", "lifetime"])
def test_what_is_measured_has_a_unit(name):
    (field,) = [field for _, n, field in FIELDS if n == name]
    assert field.json_schema_extra["unit"]


def test_every_example_can_be_used_as_it_is(tmp_path):
    lines = config_text(Config()).splitlines()
    lines = [line.removeprefix("# ") if LINE.fullmatch(line) else line for line in lines]
    config = read_back("\n".join(lines), tmp_path)
    for table, name, _ in FIELDS:
        within = getattr(config, table) if table else config
        assert getattr(within, f"{name}_" if name == "copy" else name) is not None, name


def test_a_secret_is_not_printed():
    config = load_config(settings=['dicom.salt="hunter2hunter2hunter2"'])
    assert "hunter2" not in config_text(config)


def test_the_command(tmp_path):
    (tmp_path / "own.toml").write_text("labels = 'nearest'\n[store]\nlevel = 9\n")
    done = call("config", "--preset", "nnunet", "--config", "own.toml", "--set", "order=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    config = read_back(done.stdout, tmp_path)
    assert config == load_config("nnunet", tmp_path / "own.toml", ["order=1"])
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".toml"] == []
    wrong = call("config", "--set", "ordr=1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "setting 'ordr' is unknown; did you mean 'order'? (--set 'ordr=1')" in wrong.stderr
