"""GPT-2 as `transformers` implements it, with its own cache: the standard that others are compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from ..checkpoints.checkpoint import Checkpoint


class Backend:
    """See `cached.Backend`."""

    weights = "f32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        c = checkpoint.config
        config = GPT2Config(
            vocab_size=c.n_vocab,
            n_positions=c.n_ctx,
            n_embd=c.n_embd,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_inner=c.n_inner,
            layer_norm_epsilon=c.layer_norm_epsilon,
            activation_function=c.activation_function,
            tie_word_embeddings=c.tie_word_embeddings,
            scale_attn_weights=c.scale_attn_weights,
            scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
            bos_token_id=c.eos_token_id,
            eos_token_id=c.eos_token_id,
        )
        tensors = {s.name: torch.from_numpy(checkpoint.array(s)) for s in checkpoint.specs()}
        weights = {"lm_head.weight": tensors.pop("lm_head.weight", tensors["wte.weight"])}
        weights |= {f"transformer.{name}": tensor for name, tensor in tensors.items()}
        self._model = GPT2LMHeadModel(config)
        self._model.train(False)
        self._model.load_state_dict(weights, assign=True)
        self._model.tie_weights()
        self.weight_bytes = sum(tensor.nbytes for tensor in self._model.parameters())

    def new_cache(self) -> DynamicCache:
        return DynamicCache()

    @torch.inference_mode()
    def hidden(self, ids: NDArray[np.int32], n_past: int, cache: DynamicCache) -> Tensor:
        n_rewound = cache.get_seq_length() - n_past
        if n_rewound > 0:
            cache.crop(-n_rewound)
        tokens = torch.from_numpy(ids).long()[None]
        states: Tensor = self._model.transformer(tokens, past_key_values=cache, use_cache=True)[0]
        return states[0]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._model.lm_head(hidden)
        return logits
