"""lm-evaluation-harness with gpt2c: tasks find what they find with transformers on the same weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from models import write_model
from processes import INSTALLED, python
from references import optional

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL

lm_eval = optional("lm_eval")

from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from gpt2c.evaluation import HarnessModel  # noqa: E402

TASKS = TaskManager(include_defaults=False)

CHOICES = [
    {"before": "It was a dark", "ends": [" night", " spoon", " and stormy sea,"], "right": 0},
    {"before": "'My dear", "ends": [" Watson,'", " fish is green'"], "right": 0},
    {"before": "", "ends": ["The sea", "Sea the"], "right": 0},
    {"before": "He said that he would come ", "ends": ["to-morrow", "back"], "right": 1},
]
TEXTS = ["Once upon a time there was a king.", "The sea. " * 250, "é ünïcödé — 'quotes'\n\ta tab", "x"]
PROMPTS = ["Once upon a time", "'Holmes,' said I,", "The captain of the ship " * 150]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A task for each kind of request, over files of this folder."""
    folder = tmp_path_factory.mktemp("tasks")
    os.environ["HF_HOME"] = str(folder / "hf")

    def task(name: str, rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder)}
        return {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **fields}

    return [
        task(
            "choices",
            CHOICES,
            output_type="multiple_choice",
            doc_to_text="{{before}}",
            doc_to_choice="{{ends}}",
            doc_to_target="{{right}}",
            target_delimiter="",
        ),
        task(
            "texts",
            [{"text": text} for text in TEXTS],
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        ),
        task(
            "answers",
            [{"prompt": prompt, "answer": ","} for prompt in PROMPTS],
            output_type="generate_until",
            doc_to_text="{{prompt}}",
            doc_to_target="{{answer}}",
            target_delimiter="",
            generation_kwargs={"until": [".", "\n"], "max_gen_toks": 30, "do_sample": False},
            metric_list=[{"metric": "exact_match"}],
        ),
    ]


def evaluate(model: Any, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What lm_eval.simple_evaluate does, without looking at its own thousands of tasks."""
    found = lm_eval.evaluate(lm=model, task_dict=TASKS.load(tasks)["tasks"], bootstrap_iters=0)
    assert found is not None
    return found


def by_name(args: str) -> Any:
    return get_model("gpt2c").create_from_arg_string(args, {"batch_size": 4, "device": None})


@pytest.fixture(scope="module")
def of_transformers(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    torch = optional("torch")
    optional("accelerate")  # of lm_eval's own model
    from lm_eval.models.huggingface import HFLM

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = evaluate(HFLM(pretrained=str(EMBEDDED_MODEL), device="cpu", dtype="float32", batch_size=1), tasks)
    torch.set_num_threads(n_threads)
    return found


def test_tasks_find_what_they_find_with_transformers(
    binding: str, tasks: list[dict[str, Any]], of_transformers: dict[str, Any]
) -> None:
    ours = evaluate(by_name(f"binding={binding}"), tasks)
    for task, n in (("choices", len(CHOICES)), ("texts", len(TEXTS)), ("answers", len(PROMPTS))):
        found, wanted = (results["samples"][task] for results in (ours, of_transformers))
        assert len(found) == len(wanted) == n
        for a, b in zip(found, wanted, strict=True):
            assert a["arguments"] == b["arguments"]
            assert [response_of(r) for r in a["resps"]] == [response_of(r) for r in b["resps"]]
        values = {k: v for k, v in of_transformers["results"][task].items() if isinstance(v, float)}
        assert values
        for metric, value in values.items():
            assert ours["results"][task][metric] == pytest.approx(value, rel=1e-5)


def response_of(answers: list[Any]) -> Any:
    """The one answer to a request, its number within rounding."""
    [answer] = answers
    match answer:
        case (logprob, is_greedy):
            return pytest.approx(logprob, rel=1e-5, abs=1e-4), is_greedy
        case float():
            return pytest.approx(answer, rel=1e-5)
    assert isinstance(answer, str)
    return answer


def test_a_loaded_model_is_taken_as_it_is(tasks: list[dict[str, Any]]) -> None:
    with gpt2c.load(weights="q8", threads=1) as model:
        rounded = evaluate(HarnessModel(model, batch_size=2), tasks[1:2])
        assert model.batch_size == 2
        assert HarnessModel(model, batch_size="auto:4").model.batch_size == 32
    exact = evaluate(by_name("weights=f32,threads=1"), tasks[1:2])
    a, b = (results["results"]["texts"]["bits_per_byte,none"] for results in (rounded, exact))
    assert a != b
    assert a == pytest.approx(b, rel=0.01)


def test_what_contexts_have_in_common_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_fed = []
    feed = gpt2c.Session._feed
    monkeypatch.setattr(
        gpt2c.Session, "_feed", lambda self, ids, *a, **k: n_fed.append(len(ids)) or feed(self, ids, *a, **k)
    )
    with gpt2c.load() as model:
        context = list(range(100, 200))
        requests = [(None, context, [i, i]) for i in range(10)]
        HarnessModel(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert sum(n_fed) == 99 + 10 * 2


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with gpt2c.load() as model:
        with pytest.raises(
            gpt2c.OptionError, match="the model is already loaded: weights can no longer be set"
        ):
            HarnessModel(model, weights="q8")
        harness = HarnessModel(model)
        for asked, message in [
            ({"typical_p": 0.5}, "a task sets 'typical_p', which gpt2c does not support"),
            ({"max_gen_toks": 512}, "a task asks for 512 new tokens, but the context holds 512"),
        ]:
            with pytest.raises(gpt2c.OptionError, match=message):
                harness._settings(asked)
        assert harness._settings({"do_sample": True, "top_k": 3, "until": "."}) == {
            "seed": 0,
            "top_k": 3,
            "temperature": 1.0,
            "max_new_tokens": 256,
            "stop": ["."],
        }
    with gpt2c.load(write_model(tmp_path / "m", "tiny")) as model, pytest.raises(gpt2c.ModelFileError):
        _ = HarnessModel(model).eot_token_id


def test_the_harness_own_command_knows_the_model(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "The sea."}\n{"text": "The ship."}\n')
    (tmp_path / "task.yaml").write_text(
        f"""
task: two_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
    )
    argv = ["--model", "gpt2c", "--model_args", "weights=q8,threads=1", "--tasks", "task.yaml"]
    run = python("-m", "gpt2c.evaluation", *argv, path=INSTALLED, cwd=tmp_path, HF_HOME=str(tmp_path))
    assert run.returncode == 0, run.stderr[-2000:]
    assert "bits_per_byte" in run.stdout
