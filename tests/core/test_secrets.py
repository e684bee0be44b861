"""Secret arguments: a row tells them from the others, and no text that comes out holds one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchq.core.secrets import MASK, Veil, masked, masked_definition, packed, unpacked

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.data())
def test_what_is_packed_comes_out_as_it_was_and_is_shown_without_its_secrets(kwargs, data):
    secret = data.draw(st.sets(st.sampled_from(sorted(kwargs)) if kwargs else st.nothing()))

    row = packed(kwargs, secret)
    shown, hidden = unpacked(row)

    assert (shown | hidden, set(hidden)) == (kwargs, secret)
    assert masked(row) == {name: MASK if name in secret else value for name, value in kwargs.items()}


def test_arguments_of_which_none_is_secret_are_kept_as_they_always_were():
    assert packed({"day": "today"}, ()) == '{"day": "today"}'


def test_a_definition_is_shown_without_its_secrets():
    tasks = [{"name": "A", "kwargs": {"user": "u", "password": "p"}, "secret": ["password"]}, {"name": "B", "run": "x"}]
    shown = masked_definition({"name": "J", "tasks": tasks})
    assert shown == {"name": "J", "tasks": [tasks[0] | {"kwargs": {"user": "u", "password": MASK}}, tasks[1]]}


TEXT = 'pä55 "word"\nsecond line/'


@pytest.mark.parametrize(
    "said",
    [
        f"it is {TEXT} indeed",
        f"{TEXT!r}",
        json.dumps({"a": TEXT}),
        "second line/ alone",
        "redis://u:p%C3%A455%20%22word%22%0Asecond%20line%2F@h",
        "KeyError: 123456",
        "[3.25e+20]",
        "nested hunter2",
    ],
)
def test_a_secret_is_hidden_in_every_form_that_a_text_may_give_it(said):
    veil = Veil({"a": TEXT, "b": 123456, "c": [3.25e20], "d": {"e": ["hunter2"]}, "f": None, "g": True, "h": "no"})

    hidden = veil.hide(said)

    assert MASK in hidden
    assert not [part for part in ("pä55", "\\u00e455", "second", "%C3", "123456", "3.25", "hunter2") if part in hidden]


def test_a_value_keeps_its_shape_and_what_is_no_secret():
    veil = Veil({"a": "hunter2", "b": 123456})
    value = {"hunter2": [1, None, True, 123456, 1.5, ("it is hunter2",)], "ok": {"n": "True"}}
    assert veil.hide_in(value) == {MASK: [1, None, True, MASK, 1.5, [f"it is {MASK}"]], "ok": {"n": "True"}}


def test_where_nothing_is_long_enough_to_be_told_from_other_words_texts_stay_as_they_are():
    assert Veil({"a": "on", "b": 7, "c": None}).hide("once in 7 days") == "once in 7 days"
