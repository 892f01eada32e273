"""Record what transformers computes, so that gpt2c can be compared with it where torch is not installed.

    python tools/record_goldens.py        (needs the extra `parity`)

The tool writes tests/golden/transformers.json. For the random models of tests/models.py and for the embedded
model, it holds the logits at every position of a prompt, for a sample of the vocabulary, and 100 greedy ids.
tests/test_goldens.py compares gpt2c with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from models import PROMPTS, write_model  # noqa: E402

from gpt2c.checkpoints.hub import EMBEDDED_MODEL  # noqa: E402
from gpt2c.text.tokenizer import Tokenizer  # noqa: E402

TEXTS = ["Once upon a time", "It was a dark night,", "'What is the matter?' said"]
N_NEW = 100
N_SAMPLED = 64  # logits that are recorded per position, evenly spread over the vocabulary


def record(folder: Path, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Logits and greedy continuations of a model, one record per prompt."""
    load = transformers.GPT2LMHeadModel.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
    step = -(-model.config.vocab_size // N_SAMPLED)
    rows = []
    for ids in prompts:
        prompt = torch.tensor([ids])
        with torch.no_grad():
            logits = model(prompt).logits[0]
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=N_NEW,
            do_sample=False,
            pad_token_id=0,
        )
        rows.append(
            {
                "prompt_ids": ids,
                "vocabulary_step": step,
                "logits": [[round(float(x), 5) for x in row[::step]] for row in logits],
                "greedy_ids": out[0, len(ids) :].tolist(),
            }
        )
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # there is only --help
    tokenizer = Tokenizer.from_folder(EMBEDDED_MODEL)
    goldens: dict[str, Any] = {
        "made_by": f"tools/record_goldens.py, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, float32",
        "embedded": record(EMBEDDED_MODEL, [tokenizer.encode(text) for text in TEXTS]),
    }
    with tempfile.TemporaryDirectory() as base:
        for name, prompts in PROMPTS.items():
            goldens[name] = record(write_model(Path(base) / name, name), prompts)
    path = ROOT / "tests" / "golden" / "transformers.json"
    path.write_text(json.dumps(goldens) + "\n")
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
