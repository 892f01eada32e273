"""include/gpt2c.h, what Cython's binding declares of it and what CFFI's exposes are one interface.

All three become a `Surface` of normalized text and are compared; mutated copies prove that a difference
is seen. CFFI drops `const` and Cython names only the enumerators it uses, so there the header is read
the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pycparser
import pytest
from pycparser import c_ast, c_generator

import gpt2c
from gpt2c import bindings, errors, options
from gpt2c.bindings import cffi_binding
from gpt2c.checkpoints import checkpoint, formats

ROOT = Path(__file__).resolve().parent.parent
HEADER = (ROOT / "include/gpt2c.h").read_text()
PXD = (ROOT / "gpt2c/bindings/gpt2c_h.pxd").read_text()
STANDARD_TYPES = ("size_t", "int32_t", "int64_t", "uint16_t", "uint32_t", "uint64_t")


@dataclass
class Surface:
    """Name -> (result, *arguments), [(field, type)], {enumerator: value}, and other types."""

    functions: dict[str, list[str]] = field(default_factory=dict)
    structs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    typedefs: dict[str, str] = field(default_factory=dict)


# ---- Reading ----


def type_text(node: Any) -> str:
    """A declaration's type without the declared name; an array argument is a pointer."""
    if isinstance(node, c_ast.ArrayDecl):
        return f"{type_text(node.type)} *"
    if isinstance(node, c_ast.PtrDecl):
        inner = node.type
        if isinstance(inner, c_ast.FuncDecl):
            arguments = ", ".join(type_text(argument.type) for argument in inner.args.params)
            return f"{type_text(inner.type)} (*)({arguments})"
        return f"{type_text(inner)} *".replace("* *", "**")
    assert isinstance(node, c_ast.TypeDecl)
    return " ".join([*node.quals, *node.type.names])


def read_c(text: str) -> Surface:
    prelude = "".join(f"typedef int {name};\n" for name in STANDARD_TYPES)
    text = prelude + re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    surface = Surface()
    for node in pycparser.CParser().parse(text).ext:
        kind = getattr(node.type, "type", None)
        if node.name in STANDARD_TYPES:
            continue
        if isinstance(node.type, c_ast.FuncDecl):
            arguments = (
                [type_text(argument.type) for argument in node.type.args.params] if node.type.args else []
            )
            surface.functions[node.name] = [type_text(node.type.type), *(a for a in arguments if a != "void")]
        elif isinstance(kind, c_ast.Struct):
            surface.structs[node.name] = [(decl.name, type_text(decl.type)) for decl in kind.decls or []]
        elif isinstance(kind, c_ast.Enum):
            values, following = {}, 0
            for enumerator in kind.values.enumerators:
                if enumerator.value is not None:
                    following = int(c_generator.CGenerator().visit(enumerator.value), 0)
                values[enumerator.name] = following
                following += 1
            surface.enums[node.name] = values
        else:
            surface.typedefs[node.name] = type_text(node.type)
    return surface


def read_header(text: str) -> Surface:
    return read_c(text.split("/* BEGIN DECLARATIONS */")[1].split("/* END DECLARATIONS */")[0])


def read_pxd(text: str) -> Surface:
    """Cython's declarations, rewritten as the C that they mirror."""
    text = re.sub(r"#.*", "", text).split("nogil:")[1]
    out = []
    for block in re.split(r"\n(?=    \S)", text):
        head, *body = [line.strip() for line in block.strip().splitlines()] or [""]
        match = re.fullmatch(r"ctypedef (struct|enum) (\w+):", head)
        if match and body == ["pass"]:
            out.append(f"typedef struct {match[2]} {match[2]};")
        elif match:
            end = ";" if match[1] == "struct" else ","
            out.append(
                f"typedef {match[1]} {match[2]} {{ {' '.join(line + end for line in body)} }} {match[2]};"
            )
        elif head:
            out.append(" ".join([head, *body]).replace("ctypedef", "typedef").replace("()", "(void)") + ";")
    return read_c("\n".join(out))


def read_cffi(ffi: Any, lib: Any) -> Surface:
    surface = Surface()
    for name in dir(lib):
        if name.startswith("gpt2c_") and name != "gpt2c_cffi_poll":
            function = ffi.typeof(getattr(lib, name))
            surface.functions[name] = [cffi_text(t) for t in (function.result, *function.args)]
    for name in ffi.list_types()[0]:
        kind = ffi.typeof(name)
        if kind.kind == "struct":
            members = kind.fields if is_complete(ffi, kind) else []
            surface.structs[name] = [(member, cffi_text(f.type)) for member, f in members]
        elif kind.kind == "enum":
            surface.enums[name] = dict(kind.relements)
        else:
            surface.typedefs[name] = cffi_text(kind)
    name_of = {text: name for name, text in surface.typedefs.items()}  # cffi sees through a typedef
    for name, types in surface.functions.items():
        surface.functions[name] = [name_of.get(text, text) for text in types]
    return surface


def is_complete(ffi: Any, kind: Any) -> bool:
    """False for an opaque struct, whose `.fields` cffi 2.1 aborts on."""
    try:
        return bool(ffi.sizeof(kind))
    except ffi.error:
        return False


def cffi_text(kind: Any) -> str:
    """A type as the header writes it, but for `const`."""
    if kind.kind == "function":
        return f"{cffi_text(kind.result)} (*)({', '.join(map(cffi_text, kind.args))})"
    return re.sub(r"\b(struct|enum) ", "", str(kind.cname)).replace("* *", "**")


# ---- Comparing ----


def without_const(text: str) -> str:
    return text.replace("const ", "")


def differences(header: Surface, other: Surface, *, const: bool, whole_enums: bool) -> list[str]:
    """One line each; empty if `other` is what the header says."""
    if not const:
        header = Surface(
            {name: [without_const(t) for t in types] for name, types in header.functions.items()},
            {name: [(m, without_const(t)) for m, t in fields] for name, fields in header.structs.items()},
            header.enums,
            header.typedefs,
        )
    if not whole_enums:  # what is named must be there; values come from the C compiler
        shared = {
            name: {key: value for key, value in header.enums.get(name, {}).items() if key in values}
            for name, values in other.enums.items()
        }
        header = replace(header, enums={name: dict.fromkeys(values, 0) for name, values in shared.items()})
        other = replace(other, enums={name: dict.fromkeys(values, 0) for name, values in other.enums.items()})
    return [
        f"{group}: {name}: {ours.get(name)} != {theirs.get(name)}"
        for group in ("functions", "structs", "enums", "typedefs")
        for ours, theirs in [(getattr(header, group), getattr(other, group))]
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def pxd_differences(header: str = HEADER, pxd: str = PXD) -> list[str]:
    return differences(read_header(header), read_pxd(pxd), const=True, whole_enums=False)


def cffi_differences(header: str = HEADER) -> list[str]:
    library = read_cffi(cffi_binding.ffi, cffi_binding.lib)
    return differences(read_header(header), library, const=False, whole_enums=True)


# ---- The interface ----


def test_the_header_is_read_whole() -> None:
    surface = read_header(HEADER)
    declarations = HEADER.split("/* BEGIN DECLARATIONS */")[1].split("/* END DECLARATIONS */")[0]
    without_comments = re.sub(r"/\*.*?\*/", "", declarations, flags=re.S)
    names = set(re.findall(r"\b(gpt2c_\w+)\(", without_comments))
    assert surface.functions.keys() == names
    assert surface.functions["gpt2c_version"] == ["const char *"]
    assert surface.functions["gpt2c_session_rows"][-1] == "size_t *"
    assert surface.functions["gpt2c_model_create"][-1] == "gpt2c_model **"
    assert surface.structs["gpt2c_outputs"][-1] == ("next_ids", "int32_t *")
    assert surface.structs["gpt2c_session"] == []
    assert surface.enums["gpt2c_status"]["GPT2C_STATUS_CANCELLED"] == 8
    assert surface.typedefs == {"gpt2c_poll": "int (*)(void *)"}


def test_cython_declares_what_the_header_does() -> None:
    assert pxd_differences() == []


def test_cffi_exposes_what_the_header_declares() -> None:
    assert cffi_differences() == []


# ---- Constants: what Python reads instead of repeating it ----


def test_both_bindings_have_every_constant_of_the_header(binding: str) -> None:
    enums = read_header(HEADER).enums.values()
    expected = {name: value for values in enums for name, value in values.items()}
    assert bindings.load(binding).constants() == expected


def test_an_enum_has_its_names_in_order_without_prefix_and_count() -> None:
    assert list(bindings.enum("activation").items()) == [("gelu_tanh", 0), ("gelu_erf", 1), ("relu", 2)]
    assert bindings.enum("limit")["panel_columns"] == 32


def test_the_version_is_the_headers(binding: str) -> None:
    match = re.search(r'#define GPT2C_VERSION "(.*)"', HEADER)
    assert match is not None
    assert bindings.load(binding).version() == match[1] == gpt2c.__version__


def test_every_status_but_ok_has_its_exception() -> None:
    statuses = dict(bindings.enum("status"))
    assert statuses.pop("ok") == 0
    assert sorted(errors._CLASS_OF_STATUS) == sorted(statuses.values())
    of = {name: errors._CLASS_OF_STATUS[value] for name, value in statuses.items()}
    assert of["out_of_memory"] is errors.OutOfMemoryError and of["busy"] is errors.SessionBusyError
    assert of["context_full"] is errors.ContextLengthError and of["bad_token"] is errors.TokenError


def test_what_modules_without_a_binding_repeat_is_the_same_there() -> None:
    """Tables whose order is an enum's, and two numbers."""
    kinds = [kind.replace("attn.c_attn", "attn_qkv") for kind in checkpoint.TENSOR_KINDS]
    names = [kind.replace("c_", "").replace(".", "_") for kind in kinds]
    assert names == list(bindings.enum("tensor"))
    assert tuple(bindings.enum("switch")) == options.SWITCHES
    assert bindings.enum("limit")["threads"] == options.MAX_THREADS
    assert bindings.enum("limit")["panel_columns"] == formats.PANEL


# ---- And that a difference is seen ----

MUTATIONS = {
    "an argument's type": ("size_t n_past);", "int32_t n_past);"),
    "an argument more": ("float epsilon);", "float epsilon, int32_t more);"),
    "arguments swapped": (
        "const float *a, const float *b, size_t n",
        "size_t n, const float *a, const float *b",
    ),
    "a result": ("size_t gpt2c_session_n_past", "int32_t gpt2c_session_n_past"),
    "a function's name": ("gpt2c_op_softmax(", "gpt2c_op_soft_max("),
    "a field's type": ("size_t live_bytes;", "int32_t live_bytes;"),
    "a field's name": ("size_t live_bytes;", "size_t bytes_live;"),
    "a field less": ("    int32_t gelu_table; ", "    "),
    "fields swapped": ("    int32_t n_layer;\n", "    int32_t n_embd_;\n    int32_t n_layer;\n"),
    "an enum's name": ("} gpt2c_layout;", "} gpt2c_layouts; typedef int gpt2c_layout;"),
    "a pointer": ("gpt2c_model **model);", "gpt2c_model *model);"),
}


@pytest.mark.parametrize(("old", "new"), MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_changed_header_differs_from_both_bindings(old: str, new: str) -> None:
    assert old in HEADER
    assert pxd_differences(header=HEADER.replace(old, new))
    assert cffi_differences(header=HEADER.replace(old, new))


def test_a_changed_number_of_an_enumerator_is_seen() -> None:
    assert cffi_differences(HEADER.replace("GPT2C_LAYOUT_PANELS = 2", "GPT2C_LAYOUT_PANELS = 4"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("const gpt2c_model *model", "gpt2c_model *model"),
        ("size_t gpt2c_session_n_past", "int gpt2c_session_n_past"),
        ("        size_t heads_end\n", ""),
        ("        float layer_norm_epsilon", "        double layer_norm_epsilon"),
        ("    void gpt2c_matrix_free(gpt2c_matrix *matrix)\n", ""),
        ("GPT2C_LAYOUT_COUNT", "GPT2C_LAYOUTS"),
        ("int (*gpt2c_poll)(void *context)", "int (*gpt2c_poll)(int32_t context)"),
    ],
)
def test_a_changed_pxd_differs_from_the_header(old: str, new: str) -> None:
    assert old in PXD
    assert pxd_differences(pxd=PXD.replace(old, new))
