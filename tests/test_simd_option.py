"""The option `simd`: which instruction set it means, alone, with a value, and next to isa=."""

from __future__ import annotations

import pytest

from gpt2c.errors import OptionError
from gpt2c.options import Plan, resolve

WIDE = (("ref", True), ("unroll", True), ("avx2", True), ("avx512", True))
NARROW = (("ref", True), ("unroll", True), ("avx2", False), ("avx512", False))


def plan(opts: str, isa: str = "auto", isas: tuple[tuple[str, bool], ...] = WIDE, **environ: str) -> Plan:
    return resolve(opts, isa=isa, isas=isas, environ=environ)


def test_all_takes_the_best_set_of_the_machine() -> None:
    assert plan("all").isa == "avx512"
    assert "simd" in plan("all") and "unroll" not in plan("all")


def test_a_machine_without_simd_falls_back_to_unroll() -> None:
    assert plan("all", isas=NARROW).isa == "unroll"
    assert "simd" not in plan("all", isas=NARROW)


def test_a_value_names_the_set() -> None:
    assert plan("simd=avx2").isa == "avx2"
    assert plan("all,simd=avx2").isa == plan("simd=avx2,all").isa == "avx2"
    assert plan("simd=avx2", isa="avx2").options == ("aligned", "simd")


def test_simd_brings_aligned_and_replaces_unroll() -> None:
    assert plan("simd,unroll").options == ("aligned", "simd")
    assert plan("unroll", isa="avx2").options == ("aligned", "simd")
    assert plan("none", isa="avx2").options == ("aligned", "simd")


def test_an_isa_without_simd_replaces_simd() -> None:
    assert plan("all", isa="ref").isa == "ref"
    assert not {"simd", "unroll"} & set(plan("all", isa="ref").options)
    assert "unroll" in plan("all", isa="unroll") and "simd" not in plan("all", isa="unroll")


def test_the_environment_comes_after_the_arguments() -> None:
    assert plan("all", GPT2C_ISA="avx2").isa == "avx2"
    assert plan("all", isa="ref", GPT2C_ISA="avx2").isa == "ref"
    assert plan("simd=avx512", GPT2C_ISA="avx2").isa == "avx512"


@pytest.mark.parametrize(
    ("opts", "isa", "message"),
    [
        ("simd=avx2", "avx512", "two values for the instruction set"),
        ("simd=avx2", "ref", "two values for the instruction set"),
        ("simd=ref", "auto", "use isa=ref for it"),
        ("simd=avx9", "auto", "unknown instruction set"),
        ("simd=", "auto", "needs a value"),
        ("simd,simd=avx2", "auto", "given twice"),
        ("kv=1", "auto", "takes no value"),
        ("all=1", "auto", "takes no value"),
    ],
)
def test_what_makes_no_sense_is_an_error(opts: str, isa: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan(opts, isa)


def test_a_set_that_the_machine_lacks_is_an_error() -> None:
    with pytest.raises(OptionError, match="cannot run 'avx2'"):
        plan("simd=avx2", isas=NARROW)
