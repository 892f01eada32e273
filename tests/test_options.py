"""Option names -> plan: order, defaults, needs, and the errors of bad lists."""

from __future__ import annotations

from typing import Any

import pytest

import gpt2c
from gpt2c.backends.native import native_config
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.config import read_config
from gpt2c.options import OPTIONS, SWITCHES, resolve

ISAS = [("ref", True), ("unroll", True), ("fast", True), ("newer", False)]


def plan(opts: Any = "all", **arguments: Any) -> gpt2c.Plan:
    return resolve(opts, **{"isas": ISAS, "environ": {}, **arguments})


def test_none_turns_everything_off() -> None:
    for opts in ("none", "", (), []):
        assert plan(opts).options == ()
        assert plan(opts).isa == "ref"
        assert plan(opts).switches == 0


def test_all_is_every_option_that_says_so() -> None:
    assert set(plan("all").options) == {option.name for option in OPTIONS if option.in_all}
    assert plan("all").switches == 0b111111


def test_more_names_may_follow_all() -> None:
    assert set(plan("all,gelu_table").options) == {*plan("all").options, "gelu_table"}


def test_the_order_and_spaces_do_not_matter() -> None:
    assert plan("gelu_table, kv") == plan("kv,gelu_table") == plan(["kv", "gelu_table"])


def test_each_switch_is_one_bit_in_the_order_of_the_header() -> None:
    assert [plan(name).switches for name in SWITCHES] == [1, 2, 4, 8, 16, 32]


def test_a_plan_prints_what_will_be_done() -> None:
    assert str(plan("gelu_table,kv")) == "opts=kv,gelu_table isa=ref threads=1 weights=f32"
    assert str(plan("kv_f16")) == "opts=kv,kv_f16 isa=ref threads=1 weights=f32"
    assert str(plan("none")) == "opts=none isa=ref threads=1 weights=f32"


def test_an_argument_goes_before_the_environment_and_that_before_the_machine() -> None:
    assert plan("simd,threads", cores=3) == plan("aligned,simd", threads=3)
    environ = {"GPT2C_ISA": "ref", "GPT2C_THREADS": "5"}
    assert (plan("all", environ=environ).isa, plan("all", environ=environ).threads) == ("ref", 5)
    named = plan("all", isa="unroll", threads=2, environ=environ)
    assert (named.isa, named.threads) == ("unroll", 2)


def test_the_environment_does_not_turn_on_what_was_not_asked_for() -> None:
    named = plan("none", environ={"GPT2C_ISA": "fast", "GPT2C_THREADS": "5"})
    assert (named.options, named.isa, named.threads) == ((), "ref", 1)


def test_what_an_option_needs_is_added_and_what_it_replaces_goes() -> None:
    assert plan("simd").options == ("aligned", "simd")
    assert plan("unroll,simd").options == ("aligned", "simd")
    assert plan("kv_f16").options == ("kv", "kv_f16")
    assert plan("fused").options == ("kv", "linear", "gelu", "residual", "fused")


def test_naming_an_instruction_set_is_choosing_the_option() -> None:
    assert plan("kv", isa="fast") == plan("kv,simd=fast") == plan("kv,simd=fast", isa="fast")
    assert "simd" not in plan("all", isa="ref")
    assert "unroll" in plan("all", isa="unroll")
    assert plan("kv", threads=2) == plan("kv,threads=2")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ("gelutable", "unknown option 'gelutable' (did you mean 'gelu_table'?)"),
        ("kv,layer_norm", "unknown option 'layer_norm' (did you mean 'layernorm'?)"),
        ("quux", "unknown option 'quux'"),
        ("kv,,gelu", "unknown option ''"),
        ("kv,kv", "option 'kv' is given twice"),
        ("kv,none", "'none' cannot be combined with other options"),
        ("all,none", "'none' cannot be combined with other options"),
        ("kv=1", "option 'kv' takes no value"),
        ("simd=", "option 'simd' needs a value after '='"),
        ("threads=0", "threads must be an integer from 1 to 1024, not '0'"),
        ("threads=two", "threads must be an integer from 1 to 1024, not 'two'"),
        ("threads=1025", "threads must be an integer from 1 to 1024, not '1025'"),
    ],
)
def test_a_bad_list_gets_one_clear_line(opts: str, message: str) -> None:
    with pytest.raises(gpt2c.OptionError) as error:
        plan(opts)
    assert str(error.value) == message


def test_an_instruction_set_must_exist_and_be_on_this_machine() -> None:
    with pytest.raises(gpt2c.OptionError, match=r"unknown instruction set 'mmx' \(choose from auto, ref, "):
        plan(isa="mmx")
    with pytest.raises(
        gpt2c.OptionError, match=r"this machine cannot run 'newer' \(choose from ref, unroll, fast\)"
    ):
        plan(isa="newer")


def test_two_different_values_are_an_error() -> None:
    with pytest.raises(
        gpt2c.OptionError, match="two values for the instruction set: 'fast' in the options and 'ref'"
    ):
        plan("simd=fast", isa="ref")
    with pytest.raises(gpt2c.OptionError, match="two values for threads: '2' in the options and '3'"):
        plan("threads=2", threads=3)


def test_a_weight_format_is_an_option_or_an_argument() -> None:
    assert plan("kv,bf16") == plan("kv", weights="bf16") == plan("kv,bf16", weights="bf16")
    assert plan("kv,bf16").options == ("kv", "aligned", "bf16")
    assert (plan("kv,bf16").weights, plan("kv").weights, plan("kv", weights="f32").weights) == (
        "bf16",
        "f32",
        "f32",
    )
    with pytest.raises(gpt2c.OptionError, match="two weight formats: 'bf16' and 'f32'"):
        plan("bf16", weights="f32")
    with pytest.raises(
        gpt2c.OptionError, match=r"unknown weight format 'f8' \(choose from f32, bf16, q8, q4\)"
    ):
        plan(weights="f8")


def test_the_formats_are_those_that_the_core_was_built_with() -> None:
    assert tuple(gpt2c.bindings.select().formats()) == gpt2c.options.WEIGHTS


def test_an_option_with_a_field_in_c_is_1_there_or_0() -> None:
    fields = ("aligned", "fused", "gelu_table", "head_screen", "kv_f16")
    assert {option.name for option in OPTIONS if option.is_field} == set(fields)
    config = read_config(EMBEDDED_MODEL / "config.json")
    for name in fields:
        chosen = plan(name)
        found = native_config(config, chosen, [isa for isa, _ in ISAS])
        assert {field: found[field] for field in fields} == {field: int(field in chosen) for field in fields}
        assert found[name] == 1
