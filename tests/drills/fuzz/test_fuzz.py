"""A few hundred of the inputs that `python -m drills.fuzz` makes for minutes, always the same ones."""

from __future__ import annotations

import importlib
from random import Random

import pytest

from drills.fuzz.judge import KINDS, judge
from drills.fuzz.mutate import mutated, seeds

ROUNDS = 60


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_is_taken_and_survives_or_is_refused_in_a_sentence(kind: str):
    random = Random(kind)
    pool = [content for of, content in seeds() if of == kind] or [content for _, content in seeds()]
    for _ in range(ROUNDS):
        content = mutated(random.choice(pool), random)
        judge(kind, content)
        pool.append(content[:8192])


@pytest.mark.parametrize(("kind", "content"), [(kind, content) for kind, content in seeds()])
def test_what_inputs_are_made_from_is_good(kind: str, content: bytes):
    judge(kind, content)


def test_the_command_says_when_an_input_breaks_the_rule(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    fuzz = importlib.import_module("drills.fuzz.__main__")
    monkeypatch.setattr(fuzz, "KEPT", tmp_path)
    monkeypatch.setitem(KINDS, "words", lambda content: 1 // 0)

    assert fuzz._by_chance(minutes=1, seed=1) == 1

    (kept,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{kept}: ZeroDivisionError: integer division or modulo by zero\n"
    with pytest.raises(ZeroDivisionError):
        fuzz._try(kept.read_bytes())
