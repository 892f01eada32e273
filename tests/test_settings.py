"""The registry of generation settings: a row is a parameter, a flag, a name for /set, a line of the docs."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import gpt2c
from gpt2c.cli import chat, run
from gpt2c.cli.arguments import Parser
from gpt2c.generation.settings import SETTINGS, GenerationSettings

DOCS = Path(__file__).parents[1] / "docs" / "generation.md"


@pytest.mark.parametrize("name", ["generate", "stream", "generate_batch"])
def test_every_way_to_generate_has_the_rows_as_parameters(name: str) -> None:
    own = 2  # self and the prompt
    parameters = list(inspect.signature(getattr(gpt2c.Model, name)).parameters.values())[own:]
    assert [(p.name, p.default) for p in parameters] == [(n, row.default) for n, row in SETTINGS.items()]


def test_the_defaults_pass_their_own_checks_and_stay_what_they_are() -> None:
    settings = GenerationSettings()
    assert {name: getattr(settings, name) for name in SETTINGS} == {n: r.default for n, r in SETTINGS.items()}


@pytest.mark.parametrize("command", [run, chat], ids=["run", "chat"])
def test_a_command_has_the_flags_that_its_rows_give_it(command) -> None:
    parser = Parser()
    command.add_arguments(parser)
    given = vars(parser.parse_args([]))
    for name, row in SETTINGS.items():
        is_shown = row.flag is not None and (row.flag.in_chat or command is run)
        assert (name in given) == is_shown
        if is_shown:
            assert given[name] == row.flag_default
            assert f"--{name.replace('_', '-')}" in parser.format_help()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_described_where_it_is_looked_up(name: str) -> None:
    row, doc = SETTINGS[name], inspect.getdoc(GenerationSettings)
    assert f"| `{name}` | `{row.default!r}` | {row.meaning} |\n" in DOCS.read_text()
    assert doc is not None and f"\n{name}: {row.meaning}." in doc


def test_an_unknown_setting_is_a_type_error_as_of_any_function() -> None:
    with gpt2c.load() as model, pytest.raises(TypeError, match="temprature"):
        model.generate("x", temprature=1.0)  # type: ignore[call-arg]
