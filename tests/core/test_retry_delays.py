"""How long a further attempt waits, and after which errors one follows: rule 30, case by case."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchq
from batchq.core import retries
from batchq.core.ends import Failure
from batchq.core.retries import PLAIN, UNREADABLE, YEAR_SECONDS, Policy
from batchq.core.states import Reason

KINDS = {kind.__name__: kind for kind in (BrokenPipeError, ConnectionError, ValueError, OSError)}
TOKENS = st.uuids().map(str)
POLICIES = st.builds(
    Policy,
    backoff=st.floats(1, 1000),
    most=st.none() | st.floats(0, YEAR_SECONDS),
    jitter=st.floats(0, 1),
)


class Late(ConnectionError):
    """An error of a project's own."""


class Never(batchq.Final):
    """A final error of a project's own."""


def failed(kind: type | str) -> Failure:
    """The failure of an attempt that raised this, or that ended for this reason."""
    if isinstance(kind, str):
        return Failure(Reason(kind), kind)
    return Failure(Reason.ERROR, "", classes=retries.lineage(kind))


# --- how long it waits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "policy", "waits"),
    [
        (0, PLAIN, [0, 0, 0, 0, 0]),
        (10, PLAIN, [10, 10, 10, 10, 10]),
        (10, Policy(backoff=2, most=30), [10, 20, 30, 30, 30]),
        (10, Policy(backoff=2), [10, 20, 40, 80, 160]),
        (10, Policy(most=4), [4, 4, 4, 4, 4]),
        (0, Policy(backoff=1000), [0, 0, 0, 0, 0]),
        (0.5, Policy(backoff=1.5), [0.5, 0.75, 1.125, 1.6875, 2.53125]),
        (3600, Policy(backoff=1000), [3600, 3_600_000, YEAR_SECONDS, YEAR_SECONDS, YEAR_SECONDS]),
    ],
)
def test_each_retry_waits_as_the_table_of_rule_30_says(delay: float, policy: Policy, waits: list[float]) -> None:
    assert [retries.wait(retry, delay, policy, "any token") for retry in range(1, 6)] == waits


def test_the_jitter_of_rule_30_moves_each_wait_by_a_fifth_at_most_and_alike_for_the_same_token() -> None:
    policy = Policy(backoff=2, most=30, jitter=0.2)
    for token in map(str, range(200)):
        waits = [retries.wait(retry, 10, policy, token) for retry in range(1, 6)]
        assert all(abs(found - plain) <= 0.2 * plain for found, plain in zip(waits, [10, 20, 30, 30, 30], strict=True))
        assert waits == [retries.wait(retry, 10, policy, token) for retry in range(1, 6)]


def test_a_thousand_tokens_spread_over_the_whole_jitter() -> None:
    waits = [retries.wait(1, 10, Policy(jitter=0.2), str(number)) for number in range(1000)]
    assert min(waits) < 8.1
    assert max(waits) > 11.9
    assert abs(sum(waits) / 1000 - 10) < 0.2
    assert len(set(waits)) == 1000


@given(st.floats(0, YEAR_SECONDS), POLICIES, TOKENS)
def test_waits_grow_to_the_longest_one_and_keep_within_the_jitter(delay: float, policy: Policy, token: str) -> None:
    plain = [retries.wait(retry, delay, policy) for retry in range(1, 6)]
    moved = [retries.wait(retry, delay, policy, token) for retry in range(1, 6)]
    assert plain == sorted(plain)
    assert max(plain) <= (YEAR_SECONDS if policy.most is None else policy.most)
    for before, after in zip(plain, moved, strict=True):
        assert abs(after - before) <= policy.jitter * before + 1e-9 * before
        assert after >= 0


@pytest.mark.parametrize("retry", [-1, 0, 1])
def test_a_count_that_nobody_should_have_written_waits_like_the_first_retry(retry: int) -> None:
    assert retries.wait(retry, 10, Policy(backoff=2)) == 10
    assert retries.wait(400, 10, Policy(backoff=1000)) == YEAR_SECONDS


# --- after which errors one follows -------------------------------------------------------------------------

CASES = [
    # retry_on, retry_never_on, what ended the attempt, whether one follows
    ([], [], ValueError, True),
    ([], [], "lost", True),
    ([], [], "timed_out", True),
    ([], [], "not_started", True),
    (["ConnectionError"], [], BrokenPipeError, True),  # a base fits
    (["ConnectionError"], [], ConnectionError, True),
    (["builtins.ConnectionError"], [], ConnectionError, True),
    (["ConnectionError"], [], OSError, False),  # it is a base of the name, not the name
    (["ConnectionError"], [], "lost", False),
    (["ConnectionError", "batchq.Lost"], [], "lost", True),
    (["ConnectionError", "Lost"], [], "lost", True),
    (["batchq.Lost"], [], "timed_out", False),
    (["batchq.TimedOut"], [], "timed_out", True),
    (["ConnectionError"], [], "not_started", False),  # there was no error that could be named
    (["Exception"], [], "lost", True),
    (["Exception"], [], KeyboardInterrupt, False),
    (["BaseException"], [], KeyboardInterrupt, True),
    ([], ["ValueError"], ValueError, False),
    ([], ["ValueError"], UnicodeDecodeError, False),
    ([], ["ValueError"], KeyError, True),
    ([], ["batchq.Lost"], "lost", False),
    ([], ["batchq.TimedOut"], "lost", True),
    ([], ["ValueError"], "not_started", True),
    (["OSError"], ["BrokenPipeError"], BrokenPipeError, False),  # both lists fit
    (["OSError"], ["BrokenPipeError"], ConnectionError, True),
    (["BrokenPipeError"], ["OSError"], BrokenPipeError, False),
    ([], [], batchq.Final, False),
    ([], [], Never, False),
    (["batchq.Final"], [], batchq.Final, False),
    (["Late"], [], Late, True),
    ([f"{__name__}.Late"], [], Late, True),
    (["shop.Late"], [], Late, False),
    (["late"], [], Late, False),
    (["Error"], [], ValueError, False),  # the end of a name is no name
    (["object"], [], ValueError, False),
]


@pytest.mark.parametrize(("on", "never", "kind", "again"), CASES)
def test_an_error_is_tried_again_as_rule_30c_says(on: list[str], never: list[str], kind: type, again: bool) -> None:
    assert retries.is_tried_again(Policy(on=tuple(on), never=tuple(never)), failed(kind)) is again


def test_a_final_failure_is_never_tried_again() -> None:
    assert not retries.is_tried_again(PLAIN, Failure(Reason.ERROR, "no", final=True))


# --- names of classes ---------------------------------------------------------------------------------------


def test_a_class_has_the_names_of_its_bases_by_which_people_know_them() -> None:
    assert retries.lineage(Late) == (f"{__name__}.Late", "ConnectionError", "OSError", "Exception", "BaseException")
    assert retries.lineage(batchq.Final) == ("batchq.Final", "Exception", "BaseException")
    assert retries.lineage(json.JSONDecodeError)[0] == "json.decoder.JSONDecodeError"


def test_the_name_of_a_class_is_read_past_all_that_it_says_of_itself() -> None:
    lie = property(lambda _: 1 / 0)
    meta = type("Meta", (type,), {"__module__": lie, "__name__": lie})
    odd = meta("Odd", (Exception,), {"__module__": 17})
    assert retries.full_name(odd) == "Odd"
    long = type("N" * 10_000, (Exception,), {"__module__": "m" * 10_000})
    assert len(retries.full_name(long)) == retries.CLASS_CHARS

    class Text(str):
        __slots__ = ()

        def __format__(self, spec: str) -> str:
            raise AssertionError

        __str__ = __eq__ = __hash__ = None  # type: ignore[assignment]

    assert retries.full_name(type("Odd", (Exception,), {"__module__": Text("shop")})) == "shop.Odd"


def test_a_class_of_a_hundred_bases_names_fifty() -> None:
    kind: type = Exception
    for number in range(100):
        kind = type(f"Base{number}", (kind,), {})
    assert len(retries.lineage(kind)) == retries.MOST_CLASSES
    assert retries.lineage(kind)[0].endswith("Base99")


# --- as it is stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        (PLAIN, None),
        (Policy(backoff=2, most=30.5), {"retry_backoff": 2, "retry_delay_max": 30.5}),
        (Policy(most=0, jitter=1), {"retry_delay_max": 0, "retry_jitter": 1}),
        (Policy(on=("A", "b.C"), never=("D",)), {"retry_on": ["A", "b.C"], "retry_never_on": ["D"]}),
    ],
)
def test_a_policy_is_stored_by_the_keys_of_a_task_and_read_again(policy: Policy, stored: object) -> None:
    text = retries.written(policy)
    assert (text and json.loads(text)) == stored
    assert retries.read(text) == policy


def test_what_others_keep_beside_it_is_left_alone() -> None:
    assert retries.read('{"detach": true, "retry_jitter": 0.5}') == Policy(jitter=0.5)


@pytest.mark.parametrize(
    "stored",
    [
        *("", "{", "7", "null", "[]", '"text"'),
        *('{"retry_backoff": "2"}', '{"retry_backoff": 0}', '{"retry_backoff": 1001}', '{"retry_backoff": NaN}'),
        *('{"retry_jitter": 1.5}', '{"retry_jitter": null}', '{"retry_delay_max": -1}', '{"retry_delay_max": 1e300}'),
        *('{"retry_on": 7}', '{"retry_never_on": "ValueError"}'),
    ],
)
def test_after_settings_that_nobody_can_read_nothing_is_tried_again(stored: str) -> None:
    policy = retries.read(stored)
    assert policy == UNREADABLE
    assert not any(retries.is_tried_again(policy, failed(kind)) for kind in (ValueError, "lost", "not_started"))
