"""A model's folder, written again as the other formats that gpt2c reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from references import optional

from gpt2c.checkpoints.checkpoint import load_checkpoint

Arrays = dict[str, np.ndarray]


def arrays_of(folder: Path) -> Arrays:
    """Every tensor as float32."""
    with load_checkpoint(folder) as checkpoint:
        return {spec.name: checkpoint.array(spec) for spec in checkpoint.specs()}


def is_projection(name: str) -> bool:
    return ".c_" in name and name.endswith(".weight")


def write_llmc(path: Path, folder: Path, version: int = 3, padded: int = 128) -> None:
    """As `write_model` of llm.c's train_gpt2.py does, n_inner being 4 n_embd."""
    arrays = arrays_of(folder)
    fields = json.loads((folder / "config.json").read_text())
    header = np.zeros(256, "<i4")
    n_padded = -(-fields["vocab_size"] // padded) * padded
    sizes = [fields[key] for key in ("n_positions", "vocab_size", "n_layer", "n_head", "n_embd")]
    header[:8] = [20240326, version, *sizes, n_padded]
    parts = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    names = [
        f"h.{i}.{part}.{end}"
        for part in parts
        for end in ("weight", "bias")
        for i in range(fields["n_layer"])
    ]
    padding = np.zeros((n_padded - fields["vocab_size"], fields["n_embd"]), np.float32)
    data = [arrays["wte.weight"], padding, arrays["wpe.weight"]]
    data += [arrays[name].T if is_projection(name) else arrays[name] for name in names]
    data += [arrays["ln_f.weight"], arrays["ln_f.bias"]]
    flat = np.concatenate([np.ascontiguousarray(array).reshape(-1) for array in data])
    raw = flat.astype("<f4").tobytes() if version == 3 else to_bf16(flat).tobytes()
    path.write_bytes(header.tobytes() + raw)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, ties to even, as its bits."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def write_gguf(path: Path, folder: Path, kind: str = "F32", vocabulary: bool = False, head: str = "") -> None:
    """By the gguf package, names and all, as llama.cpp's converter does; `head`: "copy" for output.weight."""
    gguf = optional("gguf")
    fields = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(fields["n_layer"])
    writer.add_context_length(fields["n_positions"])
    writer.add_embedding_length(fields["n_embd"])
    writer.add_feed_forward_length(fields.get("n_inner") or 4 * fields["n_embd"])
    writer.add_head_count(fields["n_head"])
    writer.add_layer_norm_eps(fields.get("layer_norm_epsilon", 1e-5))
    if vocabulary:
        ids = json.loads((folder / "vocab.json").read_text())
        merges = (folder / "merges.txt").read_text().split("\n")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(sorted(ids, key=ids.__getitem__))
        writer.add_token_merges([line for line in merges if line and not line.startswith("#version")])
        writer.add_eos_token_id(fields["eos_token_id"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, fields["n_layer"])
    arrays = arrays_of(folder)
    if head == "copy":
        arrays["lm_head.weight"] = arrays["wte.weight"]
    for name, array in arrays.items():
        theirs = names.get_name(
            f"transformer.{name}" if name != "lm_head.weight" else "lm_head.weight", (".weight", ".bias")
        )
        array = np.ascontiguousarray(array.T if is_projection(name) else array)
        quantized = kind if array.ndim == 2 and name != "wpe.weight" else "F32"
        if quantized == "F32":
            writer.add_tensor(theirs, array)
        else:
            number = gguf.GGMLQuantizationType[quantized]
            writer.add_tensor(theirs, gguf.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def torch_or_skip() -> Any:
    return optional("torch")


def torch_state(
    folder: Path, change: Callable[[str, np.ndarray], np.ndarray] | None = None
) -> dict[str, Any]:
    """The arrays as torch tensors, the names with `transformer.` in front."""
    torch = torch_or_skip()
    changed = {
        name: np.ascontiguousarray(change(name, array) if change else array)
        for name, array in arrays_of(folder).items()
    }
    prefix = {name: name if name == "lm_head.weight" else f"transformer.{name}" for name in changed}
    return {prefix[name]: torch.from_numpy(array) for name, array in changed.items()}


def write_nanogpt(path: Path, folder: Path, **more: Any) -> None:
    """As nanoGPT's train.py does: nn.Linear's [n_out, n_in], and the tied head next to the embedding."""
    torch = torch_or_skip()
    fields = json.loads((folder / "config.json").read_text())
    state = torch_state(folder, lambda name, array: array.T if is_projection(name) else array)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    sizes = {key: fields[key] for key in ("n_layer", "n_head", "n_embd", "vocab_size")}
    arguments = {**sizes, "block_size": fields["n_positions"], "bias": True, "dropout": 0.0, **more}
    torch.save({"model": state, "model_args": arguments, "iter_num": 5, "config": {"device": "cpu"}}, path)
