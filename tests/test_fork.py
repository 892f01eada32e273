"""A forked child has none of its parent's threads, and works all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from processes import INSTALLED, python
from references import NEEDS_FORK

# The child's threads call at once, the parent's pool being in a call or not, and the child forks in turn.
PROGRAM = """
import os, sys, threading
import gpt2c

folder, binding, while_busy = sys.argv[1], sys.argv[2], sys.argv[3] == "busy"
model = gpt2c.load(folder, opts="all,threads=3", binding=binding)
prompts = [[i + 1, 2, 3] for i in range(4)]
expected = [model.generate(prompt, 20).ids for prompt in prompts]
stop = threading.Event()

def generate_all():
    found = [None] * len(prompts)
    def work(i):
        found[i] = model.generate(prompts[i], 20).ids
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return found

def in_child(depth):
    child = os.fork()
    if child == 0:
        good = generate_all() == expected and (depth == 0 or in_child(depth - 1))
        os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0

def keep_busy():  # with no lock of Python's, which a child would inherit
    session = model.session()
    while not stop.is_set():
        session.feed(range(1, 100))
        session.rewind(0)

other = threading.Thread(target=keep_busy)
if while_busy: other.start()
results = [in_child(1) for _ in range(5)]
stop.set()
if while_busy: other.join()
print(results == [True] * 5 and generate_all() == expected)
"""


@NEEDS_FORK
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_children_and_their_children_get_the_ids_of_the_parent(
    state: str, binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = python("-c", PROGRAM, str(model_folder("tiny")), binding, state, path=INSTALLED, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
