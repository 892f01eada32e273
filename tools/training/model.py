"""GPT-2 in PyTorch, written to be trained: tensors have the names and shapes of the files.

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

CHUNK = 128  # positions; 64 and 256 are slower
INITIAL_STD = 0.02  # GPT-2's, as are the rules of initialize()


class Conv1D(nn.Module):
    """y = x @ weight + bias, weight [n_in, n_out]."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.t(), self.bias)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v with no look ahead: all [batch, n_head, n, head_dim].

    By rows of `CHUNK` positions, each over the keys up to its end, as plain products: on a CPU, compiled and
    in bfloat16, about twice as fast as `scaled_dot_product_attention`, mostly in its gradient.
    """
    attended = []
    for begin in range(0, q.shape[2], CHUNK):
        end = min(begin + CHUNK, q.shape[2])
        scores = (q[:, :, begin:end] @ k[:, :, :end].transpose(-1, -2)).float() * scale
        seen = torch.ones(end - begin, end, dtype=torch.bool, device=q.device).tril(begin)
        shares = scores.masked_fill(~seen, -math.inf).softmax(-1).to(v.dtype)
        attended.append(shares @ v[:, :, :end])
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
    """A layer: attention and MLP, each behind a layer norm and added to what came in."""

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
        """ids [batch, n] -> logits [batch, n, n_vocab], of the next id at each position."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        head = self.wte if self.config.tie_word_embeddings else self.lm_head
        return functional.linear(self.ln_f(x), head.weight)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """GPT-2's start: matrices N(0, 0.02), those into the residual stream less by sqrt(2 n_layer)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                shrunk = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1
                parameter.normal_(0, INITIAL_STD / shrunk, generator=generator)

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Take the weights of a checkpoint with this config."""
        state = {spec.name: torch.from_numpy(checkpoint.array(spec)) for spec in checkpoint.specs()}
        self.load_state_dict(state)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats a token: logits [batch, n, n_vocab], targets [batch, n] -> a scalar."""
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the teacher's probabilities, nats a token.

    Both [batch, n, n_vocab]. Hinton et al., "Distilling the knowledge in a neural network" (2015).
    """
    ours, theirs = (functional.log_softmax(part.float().flatten(0, 1), -1) for part in (logits, teacher))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
