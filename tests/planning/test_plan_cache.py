"""Answers are kept for as long as they are right, and no longer."""

import ast
import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bioclip_jax
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning import cache as cache_module
from bioclip_jax.planning.cache import SOURCES, AnswerCache, sources_hash
from bioclip_jax.planning.compilers import Compilers
from bioclip_jax.planning.question import Question, ask_about

pytestmark = pytest.mark.core

PACKAGE = Path(bioclip_jax.__file__).parent


class Silent:
    """Watches without a word, and counts."""

    def __init__(self):
        self.events = []

    def started(self, question):
        self.events.append("started")

    def ended(self, question, reply):
        self.events.append("ended" if reply else "failed")

    def known(self, question):
        self.events.append("known")


@pytest.fixture
def question(config):
    return ask_about(config, "v5e:16x16", {"bio": 32, "replay": 77})


def test_a_reply_is_found_again_and_equal(question, reply, tmp_path):
    cache = AnswerCache(tmp_path / "plans")
    assert cache.get(question) is None
    cache.put(question, reply)
    assert cache.get(question) == reply
    assert AnswerCache(tmp_path / "plans").get(Question.from_json(question.to_json())) == reply


@pytest.mark.parametrize(
    "change",
    [
        {"global_batch_size": 45_056},
        {"remat_policy": "mlp"},
        {"micro_batches": 2},
        {"dtype": "float32"},
        {"normalization": "imagenet"},
    ],
)
def test_what_changes_the_step_is_another_question(config, question, reply, tmp_path, change):
    cache = AnswerCache(tmp_path)
    cache.put(question, reply)
    assert cache.get(ask_about(dataclasses.replace(config, **change), "v5e:16x16", question.tokens)) is None
    assert cache.get(dataclasses.replace(question, topology="v5e:8x16")) is None
    assert cache.get(dataclasses.replace(question, tokens={"bio": 48, "replay": 77})) is None


def test_what_does_not_change_the_step_is_the_same_question(config, question):
    other = dataclasses.replace(
        config,
        total_steps=9_000,
        seed=1,
        log_every=3,
        initial_weights="hf-hub:owner/name",
        data=dataclasses.replace(config.data, dataset="elsewhere", threads=9),
        checkpoint=dataclasses.replace(config.checkpoint, keep=9),
    )
    assert ask_about(other, "v5e:16x16", {"replay": 77, "bio": 32}).to_json() == question.to_json()


@pytest.mark.parametrize("cooldown", [0, 50_000])
def test_any_schedule_makes_a_question(config, cooldown):
    optimizer = dataclasses.replace(config.optimizer, schedule="constant", cooldown_steps=cooldown)
    asked = ask_about(dataclasses.replace(config, optimizer=optimizer), "v5e:16x16", {"bio": 32, "replay": 77})
    assert Question.from_json(asked.to_json()) == asked


def test_another_version_or_source_or_flag_is_asked_again(question, reply, tmp_path, monkeypatch):
    cache = AnswerCache(tmp_path)
    cache.put(question, reply)
    with monkeypatch.context() as m:
        m.setattr(cache_module, "versions", lambda: {"jax": "0.99"})
        assert cache.get(question) is None
    with monkeypatch.context() as m:
        m.setattr(cache_module, "sources_hash", lambda: "other")
        assert cache.get(question) is None
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_something")
    assert cache.get(question) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"question": "x", "reply": {}}', "half"])
def test_a_damaged_file_is_made_anew(question, reply, tmp_path, damage):
    cache = AnswerCache(tmp_path)
    cache.put(question, reply)
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(text[: len(text) // 2] if damage == "half" else damage)
    assert cache.get(question) is None
    cache.put(question, reply)
    assert cache.get(question) == reply


def test_files_appear_whole(question, reply, tmp_path):
    cache = AnswerCache(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: (cache.put(question, reply), cache.get(question))[1], range(64)))
    assert all(one == reply for one in found)
    (file,) = tmp_path.iterdir()  # no temporary file is left
    assert json.loads(file.read_text())["question"] == question.to_json()


def test_a_folder_that_cannot_be_written_keeps_nothing(question, reply, tmp_path):
    (tmp_path / "file").write_text("")
    AnswerCache(tmp_path / "file" / "plans").put(question, reply)
    assert AnswerCache(tmp_path / "file" / "plans").get(question) is None


def test_what_the_step_is_made_of_is_in_the_hash():
    """Every module of the package that a step imports, however deep."""
    seen, found = set(), ["training/step.py", "planning/answer.py"]
    while found:
        name = found.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bioclip_jax"):
                inner = node.module.split(".")[1:]
                modules = ["/".join([*inner, *more]) for more in ([], *([alias.name] for alias in node.names))]
                found += [f"{module}.py" for module in modules if (PACKAGE / f"{module}.py").is_file()]
    assert {"models/attention_tpu.py", "training/objective.py"} <= seen
    beside = seen - {"errors.py"}  # words only
    assert all(any(name == source or name.startswith(f"{source}/") for source in SOURCES) for name in beside)
    assert len(sources_hash()) == 64


def test_a_known_answer_is_not_compiled_and_one_question_only_once(question, reply, tmp_path):
    asked, watcher = [], Silent()

    def run(one, children):
        asked.append(one)
        return reply

    with Compilers(AnswerCache(tmp_path), 2, watcher, run=run) as compilers, ThreadPoolExecutor(4) as threads:
        assert all(one == reply for one in threads.map(compilers.ask, [question] * 8))
    assert (len(asked), watcher.events) == (1, ["started", "ended"])
    Compilers(AnswerCache(tmp_path), 1, watcher, run=run).ask(question)
    assert (len(asked), watcher.events[2:]) == (1, ["known"])
    Compilers(AnswerCache(tmp_path), 1, watcher, run=run, again=True).ask(question)
    assert len(asked) == 2


def test_an_answer_that_lacks_something_is_not_kept(question, reply, tmp_path):
    lacking = dataclasses.replace(reply, answer=dataclasses.replace(reply.answer, lacks="schedules"))
    cache = AnswerCache(tmp_path)
    assert Compilers(cache, 1, Silent(), run=lambda *_: lacking).ask(question) == lacking
    assert cache.get(question) is None


def test_an_error_is_not_kept(question, reply, tmp_path):
    def refuse(one, children):
        raise UsageError("no such slice")

    watcher = Silent()
    with pytest.raises(UsageError, match="no such slice"):
        Compilers(AnswerCache(tmp_path), 1, watcher, run=refuse).ask(question)
    assert watcher.events == ["started", "failed"]
    assert Compilers(AnswerCache(tmp_path), 1, watcher, run=lambda *_: reply).ask(question) == reply


def test_a_child_that_dies_is_told_in_a_line(question, tmp_path, monkeypatch):
    dies = "import os, signal, sys; print('a long way down', file=sys.stderr, flush=True); os.abort()"
    monkeypatch.setattr("bioclip_jax.planning.compilers._CHILD", dies)
    with pytest.raises(UserError, match="v5e:16x16: the process that compiles was ended by SIGABRT") as caught:
        Compilers(AnswerCache(tmp_path), 1, Silent()).ask(question)
    assert caught.value.details == ("a long way down",)


def test_closing_ends_what_compiles(question, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "here")
    waits = f"import signal; file = open({str(tmp_path / 'here')!r}, 'w'); signal.pause()"
    monkeypatch.setattr("bioclip_jax.planning.compilers._CHILD", waits)
    compilers = Compilers(AnswerCache(tmp_path / "plans"), 1, Silent())
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(compilers.ask, question)
        with (tmp_path / "here").open() as file:  # as soon as the child is there
            compilers.close()
            assert file.read() == ""  # and gone again
        with pytest.raises(UserError, match="was ended by SIGKILL"):
            asking.result()
