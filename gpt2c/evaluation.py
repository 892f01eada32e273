"""Run EleutherAI's lm-evaluation-harness on gpt2c models (extra `eval`).

    python -m gpt2c.evaluation --model gpt2c --model_args pretrained=gpt2,weights=q8 --tasks piqa

This is the harness's own command, with the model type `gpt2c` added. From Python, with a loaded model:

    lm_eval.simple_evaluate(model=HarnessModel(model), tasks=[...])
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as error:
    from .errors import BackendUnavailable

    missing = BackendUnavailable(f"gpt2c.evaluation needs lm_eval (pip install 'gpt2c[eval]'): {error}")
    if __name__ == "__main__":
        sys.exit(f"gpt2c: error: {missing}")
    raise missing from None

from .errors import ModelFileError, OptionError
from .generation.scoring import logits_before, logprobs_of
from .generation.settings import SETTINGS
from .model import Model, load

# Names of the maximum number of new tokens in requests. Other settings have the names of transformers.
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model("gpt2c")
class HarnessModel(TemplateLM):  # type: ignore[misc]  # the linters need no lm_eval
    """A model with the interface that the harness calls.

    pretrained: a loaded model, or the `model` argument of `gpt2c.load`. how: the other arguments of
    `gpt2c.load` (weights, opts, threads, isa, binding, backend). batch_size: prompts per pass; "auto" and the
    harness's "auto:N" mean 32. max_gen_toks: the number of new tokens if a request does not give one. seed:
    for tasks that sample. device and max_batch_size are ignored; the harness passes them to every model.
    """

    def __init__(
        self,
        pretrained: Model | str | None = None,
        *,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        device: str | None = None,
        **how: Any,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, Model):
            if how:
                raise OptionError(f"the model is already loaded: {next(iter(how))} can no longer be set")
            self.model = pretrained
        else:
            self.model = load(pretrained, **how)
        self.model.batch_size = 32 if str(batch_size).startswith("auto") else int(batch_size)
        self._max_gen_toks = max_gen_toks
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        """The id of EOS, which the harness puts before a text that has no context."""
        eos = self.model.tokenizer.eos_token_id
        if eos is None:
            raise ModelFileError("the model has no EOS token, which the harness puts before a text")
        return eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text; no special tokens are added."""
        return self.model.tokenizer.encode(string)

    # ---- Log likelihoods ----

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Return (sum of log probabilities, whether it is greedy) for the continuation of each request.

        A continuation is greedy if each of its tokens is the most probable one. A context that is too long
        loses its beginning. Requests are computed in the order of their tokens, so that a beginning that a
        request shares with the one before it is computed once.
        """
        n_ctx = self.model.config.n_ctx
        order = sorted(range(len(requests)), key=lambda i: requests[i][1] + requests[i][2])
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        with self.model.session() as session:
            for i in tqdm(order, desc="gpt2c: log likelihoods", disable=disable_tqdm):
                text, context, continuation = requests[i]
                if len(continuation) > n_ctx:
                    raise OptionError(
                        f"a continuation of {len(continuation)} tokens is longer than the context of {n_ctx}"
                    )
                ids = (context + continuation)[-(n_ctx + 1) :]
                expected = np.array(continuation)
                logprob, is_greedy, at = 0.0, True, 0
                for logits in logits_before(session, ids, len(ids) - len(continuation), self.model.plan):
                    part = expected[at : at + len(logits)]
                    is_greedy = is_greedy and bool((logits.argmax(-1) == part).all())
                    logprob += float(logprobs_of(logits, part).sum())
                    at += len(logits)
                found[i] = (logprob, is_greedy)
                if text is not None:
                    self.cache_hook.add_partial("loglikelihood", text, found[i])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log probability of each text after EOS.

        A long text is scored in windows of n_ctx tokens; each token is scored in one window only.
        """
        found = []
        for (text,) in tqdm([r.args for r in requests], desc="gpt2c: texts", disable=disable_tqdm):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.model.config.n_ctx,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            found.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(parts, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    # ---- Texts ----

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return a continuation for each request, which ends before a string of `until`.

        A context that is too long loses its beginning.
        """
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(i)
        found = [""] * len(requests)
        progress = tqdm(total=len(requests), desc="gpt2c: texts", disable=disable_tqdm)
        for members in groups.values():
            settings = self._settings(requests[members[0]].args[1])
            max_prompt = self.model.config.n_ctx - settings["max_new_tokens"]
            prompts = [
                (self.tok_encode(requests[i].args[0]) or [self.prefix_token_id])[-max_prompt:]
                for i in members
            ]
            for i, completion in zip(members, self.model.generate_batch(prompts, **settings), strict=True):
                found[i] = completion.text
                self.cache_hook.add_partial("generate_until", requests[i].args, completion.text)
                progress.update()
        progress.close()
        return found

    def _settings(self, request: dict[str, Any]) -> dict[str, Any]:
        """Turn the settings of a request into those of `generate_batch`."""
        n_ctx = self.model.config.n_ctx
        settings = {name: value for name, value in request.items() if name not in (*_LENGTHS, "until")}
        is_sampled = settings.pop("do_sample", False)
        unknown = [name for name in settings if name not in SETTINGS]
        if unknown:
            raise OptionError(f"a task sets {unknown[0]!r}, which gpt2c does not support")
        given = next((request[name] for name in _LENGTHS if request.get(name) is not None), None)
        n_new = min(self._max_gen_toks, n_ctx // 2) if given is None else int(given)
        if n_new >= n_ctx:
            raise OptionError(f"a task asks for {n_new} new tokens, but the context holds {n_ctx}")
        until = request.get("until") or []
        return {
            "seed": self._seed,
            **settings,
            "temperature": settings.get("temperature", 1.0) if is_sampled else 0.0,
            "max_new_tokens": n_new,
            "stop": [until] if isinstance(until, str) else [text for text in until if text],
        }


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
