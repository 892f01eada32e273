"""Write GGUF files with `gpt2c convert` and compare llama.cpp's logits with gpt2c's.

    python tools/check_llama_cpp.py             the embedded model and random ones
    python tools/check_llama_cpp.py FOLDER ...  your own models
    python tools/check_llama_cpp.py --record    as the first, and write docs/llama_cpp.md

Needs the packages gguf and llama-cpp-python. The prompts are token ids. The tokenizers are compared
separately: for a model with a vocabulary, llama.cpp must give the same ids for TEXT.

llama.cpp multiplies in half precision if the weights are halves, and takes GELU from a table of halves. (It
could store K and V as halves, too; here it stores float32.) So the logits differ by its rounding. The last
column of the table is the largest difference relative to the largest logit.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np
from random_model import write_random_model

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.checkpoints.writers import DTYPES, write_gguf

TEXT = "'I am ready,' said Holmes, and 1234 winds blew.\n\n  Über  the sea"
SHAPES = ("L3-H4-E64-V512-C128", "L2-H3-E96-V101-C64-I200", "gpt2")
LIMIT = 0.02  # maximum difference, relative to the largest logit
RESULT = Path(__file__).resolve().parent.parent / "docs" / "llama_cpp.md"
HEAD = [
    "# GGUF files in llama.cpp",
    "",
    "This page compares llama.cpp and gpt2c on the files that `gpt2c convert` writes.",
    "`python tools/check_llama_cpp.py --record` wrote it. The last two columns compare the logits of 48",
    "positions; the largest difference is relative to the largest logit. llama.cpp multiplies in half",
    "precision where weights are in half precision, and takes GELU from a half-precision table.",
    "",
    "| model | dtype | ids of a text | largest logit is the same | largest difference |",
    "|---|---|---|---|---|",
]


def llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    """Logits of llama.cpp at every position, float32 [len(ids), n_vocab]."""
    import llama_cpp as c

    parameters = c.llama_model_default_params()
    model = c.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise SystemExit(f"llama.cpp does not load {path.name}")
    settings = c.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(64, len(ids))
    settings.n_threads = settings.n_threads_batch = 2
    settings.type_k = settings.type_v = c.GGML_TYPE_F32
    context = c.llama_init_from_model(model, settings)
    n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    batch = c.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, id in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, i, 1, 1
        batch.seq_id[i][0] = 0
    status = c.llama_decode(context, batch)
    if status != 0:
        raise SystemExit(f"llama.cpp fails on {path.name} with {status}")
    rows = [
        np.ctypeslib.as_array(c.llama_get_logits_ith(context, i), (n_vocab,)).copy() for i in range(len(ids))
    ]
    c.llama_batch_free(batch)
    c.llama_free(context)
    c.llama_model_free(model)
    return np.array(rows)


def llama_ids(path: Path, text: str) -> list[int]:
    """The ids that llama.cpp gives for a text with the file's vocabulary."""
    import llama_cpp as c

    parameters = c.llama_model_default_params()
    parameters.vocab_only = True
    model = c.llama_model_load_from_file(str(path).encode(), parameters)
    buffer = (c.llama_token * 1000)()
    data = text.encode()
    n = c.llama_tokenize(c.llama_model_get_vocab(model), data, len(data), buffer, 1000, False, False)
    c.llama_model_free(model)
    return list(buffer[:n])


def compare(name: str, folder: Path, dtype: str, base: Path) -> tuple[str, bool]:
    """A row of the table, and whether llama.cpp and gpt2c agree."""
    path = base / f"{name}-{dtype}.gguf"
    with load_checkpoint(folder) as checkpoint:
        write_gguf(checkpoint, path, dtype)
    with gpt2c.load(path) as model:
        ids = [i * 37 % model.config.n_vocab for i in range(48)]
        ours, theirs = model.logits(ids), llama_logits(path, ids)
        same_ids = None
        if model.tokenizer_or_none is not None:
            same_ids = model.tokenizer.encode(TEXT) == llama_ids(path, TEXT)
    path.unlink()
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    n_same_top = int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    words = {True: "same", False: "OTHER", None: "no vocabulary"}[same_ids]
    line = f"| {name} | {dtype} | {words} | {n_same_top} of {len(ids)} | {difference:.1e} |"
    print(line, flush=True)
    return line, same_ids is not False and difference < LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", type=Path)
    parser.add_argument("--record", action="store_true", help="write the table to docs/llama_cpp.md")
    args = parser.parse_args()
    import llama_cpp as c

    quiet = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(quiet, ctypes.c_void_p(0))
    c.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        models = {path.name: path for path in args.folders}
        if not models:
            models["embedded"] = EMBEDDED_MODEL
            for shape in SHAPES:
                write_random_model(base / shape, shape, seed=3)
                models[shape] = base / shape
        results = [compare(name, path, dtype, base) for name, path in models.items() for dtype in DTYPES]
    n_good = sum(good for _, good in results)
    summary = f"{n_good} of {len(results)} agree (llama-cpp-python {c.__version__})"
    print(summary)
    if args.record:
        RESULT.write_text("\n".join([*HEAD, *(line for line, _ in results), "", f"{summary}."]) + "\n")
    return 0 if n_good == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
