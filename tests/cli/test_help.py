"""--help: whole sentences that no width cuts, for every command and every word of it."""

import re

import pytest
import typer
from commands import call

from voxelmill.cli.commands import app

TOP = typer.main.get_command(app)
WORDS = [(name, word) for name, command in TOP.commands.items() for word in command.params]
SENTENCE = re.compile(r"[A-Z](?:[^.]|\.(?=\S))+\.(?: [A-Z](?:[^.]|\.(?=\S))+\.)*")


def shown(command, width):
    """What --help prints on a terminal of a width, line by line; no line is longer."""
    context = typer.Context(command, info_name="voxelmill", terminal_width=width - 2)  # as in a terminal
    lines = command.get_help(context).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("..." in line or "…" in line for line in lines[1:])  # the first has COMMAND [ARGS]...
    return lines


def joined(lines):
    return " ".join(" ".join(lines).split())


def summary(command):
    return re.split(r"(?<=\.) ", command.help)[0]


@pytest.mark.parametrize(("command", "word"), WORDS, ids=lambda p: getattr(p, "name", p))
def test_a_word_is_told_in_whole_sentences(command, word):
    assert SENTENCE.fullmatch(word.help)


@pytest.mark.parametrize("command", TOP.commands)
def test_a_command_is_told_in_whole_sentences(command):
    assert SENTENCE.fullmatch(TOP.commands[command].help)


@pytest.mark.parametrize("width", [60, 80])
class TestNothingIsCut:
    def test_all_commands(self, width):
        text = f"{joined(shown(TOP, width))} "
        for name, command in TOP.commands.items():
            assert f" {name} {summary(command)} " in text

    @pytest.mark.parametrize("name", TOP.commands)
    def test_a_command(self, name, width):
        text = "".join("".join(shown(TOP.commands[name], width)).split())  # lines are broken at hyphens, too
        for told in (TOP.commands[name], *TOP.commands[name].params):
            assert "".join(told.help.split()) in text

    def test_the_script(self, width):
        printed = call("--help", COLUMNS=str(width)).stdout.splitlines()[2:]
        assert printed == shown(TOP, width)[2:]


@pytest.mark.parametrize("name", TOP.commands)
def test_a_summary_takes_a_line(name):
    assert f"  {name.ljust(11)}  {summary(TOP.commands[name])}" in shown(TOP, 80)
