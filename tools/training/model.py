"""GPT-2 in PyTorch for training. Tensors have the names and shapes of a checkpoint's files.

A projection is Conv1D as in GPT-2: weight [n_in, n_out], y = x @ weight + bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from gpt2c.checkpoints.checkpoint import Checkpoint
from gpt2c.config import ModelConfig
from gpt2c.reference import divisors

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
}

CHUNK = 128  # positions per chunk of attention; 64 and 256 are slower
INITIAL_STD = 0.02  # GPT-2's


class Conv1D(nn.Module):
    """y = x @ weight + bias, weight [n_in, n_out]."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.t(), self.bias)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v with a causal mask: q, k, v [batch, n_head, n, head_dim] -> the same.

    Works in chunks of `CHUNK` positions, each over the keys up to its end, as plain products. On a CPU,
    compiled and in bfloat16, this is about twice as fast as `scaled_dot_product_attention`, mostly in the
    gradient.
    """
    attended = []
    for begin in range(0, q.shape[2], CHUNK):
        end = min(begin + CHUNK, q.shape[2])
        scores = (q[:, :, begin:end] @ k[:, :, :end].transpose(-1, -2)).float() * scale
        visible = torch.ones(end - begin, end, dtype=torch.bool, device=q.device).tril(begin)
        weights = scores.masked_fill(~visible, -math.inf).softmax(-1).to(v.dtype)
        attended.append(weights @ v[:, :, :end])
    return torch.cat(attended, 2)


class Attention(nn.Module):
    """Causal self-attention: [batch, n, n_embd] -> the same."""

    def __init__(self, config: ModelConfig, divisor: float) -> None:
        super().__init__()
        self.n_head, self.scale = config.n_head, 1 / divisor
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, n_embd = x.shape
        parts = self.c_attn(x).view(batch, n, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()  # [batch, n_head, n, head_dim]
        if x.is_cuda:
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        else:
            attended = causal_attention(q, k, v, self.scale)
        return self.c_proj(attended.transpose(1, 2).reshape(batch, n, n_embd))


class Mlp(nn.Module):
    """Two projections with the activation between: [batch, n, n_embd] -> the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.activation_function]
        self.c_fc = Conv1D(config.n_embd, config.n_inner)
        self.c_proj = Conv1D(config.n_inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    """A layer: attention and MLP, each one after a layer norm and with a residual connection."""

    def __init__(self, config: ModelConfig, divisor: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, divisor)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """A GPT-2 without dropout. `state_dict()` has the names of `tensor_specs` (gpt2c/checkpoints)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(Block(config, divisor) for divisor in divisors(config))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.n_vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, n] -> logits [batch, n, n_vocab] of the next id at each position."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        head = self.wte if self.config.tie_word_embeddings else self.lm_head
        return functional.linear(self.ln_f(x), head.weight)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set GPT-2's initial weights: matrices are normal with standard deviation 0.02.

        That of projections into the residual stream is divided by sqrt(2 n_layer).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                divisor = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1
                parameter.normal_(0, INITIAL_STD / divisor, generator=generator)

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Copy the weights of a checkpoint, which must have this config."""
        state = {spec.name: torch.from_numpy(checkpoint.array(spec)) for spec in checkpoint.specs()}
        self.load_state_dict(state)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token: logits [batch, n, n_vocab], targets [batch, n] -> a scalar."""
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's probabilities, in nats per token.

    logits, teacher: [batch, n, n_vocab] -> a scalar. Hinton et al., "Distilling the knowledge in a neural
    network" (2015).
    """
    ours, theirs = (functional.log_softmax(part.float().flatten(0, 1), -1) for part in (logits, teacher))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
