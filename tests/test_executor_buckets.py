"""Length buckets, and the order of a plan on two streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psamf_edge.backends.buckets import aligned, bucket_shapes, fill, rung
from psamf_edge.backends.schedule import Order, Task, schedule
from psamf_edge.bundle import PlanKernel, PlanSegment


def test_rungs_of_thirty_seconds_of_voice() -> None:
    rungs = sorted({rung(size, (1, 3000)) for size in range(1, 3001)})
    assert rungs == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3000]


@given(st.integers(1, 200), st.integers(0, 5000), st.data())
def test_a_rung_holds_the_size_and_suits_the_engine(least: int, more: int, data) -> None:
    size = data.draw(st.integers(least, least + more))
    found = rung(size, (least, least + more))
    assert size <= found <= least + more
    assert found >= least
    assert found <= max(1.5 * size, 16, least)  # at most half as much again
    assert rung(found, (least, least + more)) == found


def test_shapes_round_up_and_what_stands_for_a_missing_modality_stays() -> None:
    host = {
        "ids": np.ones((1, 11), np.int64), "text_mask": np.ones((1, 11)), "audio_steps": np.zeros((1, 1, 64)),
        "audio_steps_mask": np.zeros((1, 1)), "audio_summary": np.zeros((1, 64)), "face": np.ones((1, 290, 69)),
        "face_mask": np.ones((1, 290)), "present": np.ones((1, 3, 3)),
    }  # fmt: skip
    assert bucket_shapes(host, {"ids": (1, 128), "audio": (1, 3000), "face": (1, 300)}) == {
        "ids": (1, 16), "text_mask": (1, 16), "audio_steps": (1, 1, 64), "audio_steps_mask": (1, 1),
        "audio_summary": (1, 64), "face": (1, 300, 69), "face_mask": (1, 300), "present": (1, 3, 3),
    }  # fmt: skip


def test_a_text_that_is_missing_pads_no_mask() -> None:
    host = {"hidden": np.zeros((1, 1, 32)), "text_mask": np.zeros((1, 1))}
    assert bucket_shapes(host, {"ids": (1, 128)})["text_mask"] == (1, 1)


def test_fill_leaves_nothing_of_what_was_there() -> None:
    view = np.full((1, 6, 2), np.nan, np.float32)
    fill(view, np.ones((1, 4, 2)))
    assert view[0, :, 0].tolist() == [1, 1, 1, 1, 0, 0]
    fill(view, np.full((1, 6, 2), 2))
    assert view[0, :, 1].tolist() == [2] * 6


def test_aligned() -> None:
    assert [aligned(size) for size in (0, 1, 256, 257)] == [0, 256, 256, 512]


TEXT = PlanSegment("text", "t", ("ids", "text_mask"), ("hidden",), "text")
AUDIO = PlanSegment("audio", "a", ("audio", "audio_mask"), ("audio_steps",), "audio")
FACE = PlanSegment("face", "f", ("face", "face_mask"), ("face_steps",), "face")
QUERY = PlanSegment("query", "q", ("hidden",), ("query", "lengths"))
KERNEL = PlanKernel("k", "cross_modal_attention", ("query", "audio_steps", "face_steps", "lengths"), ("contexts",), "w")
SCORE = PlanSegment("score", "s", ("query", "contexts"), ("score", "log_scale"))


def names(tasks: list) -> list[str]:
    """`name` on the main stream, `(name)` on the side."""
    return [
        task.name if isinstance(task, Order) else f"({task.step.name})" if task.side else task.step.name
        for task in tasks
    ]


def test_voice_and_face_run_beside_the_text_and_the_query() -> None:
    steps = [TEXT, AUDIO, FACE, QUERY, KERNEL, SCORE]
    assert names(schedule(steps)) == ["FORK", "text", "(audio)", "(face)", "query", "JOIN", "k", "score"]


def test_without_text_nothing_runs_beside() -> None:
    assert names(schedule([AUDIO, FACE, QUERY, KERNEL, SCORE])) == ["audio", "face", "query", "k", "score"]
    assert names(schedule([TEXT, QUERY, SCORE])) == ["text", "query", "score"]


def test_what_nobody_reads_is_joined_at_the_end() -> None:
    assert names(schedule([TEXT, AUDIO])) == ["FORK", "text", "(audio)", "JOIN"]


def test_a_step_that_reads_another_steps_output_stays_on_the_main_stream() -> None:
    late = PlanSegment("late", "l", ("audio", "hidden"), ("audio_steps",), "audio")
    assert names(schedule([TEXT, late, SCORE])) == ["text", "late", "score"]


@pytest.mark.parametrize("order", list(itertools.permutations([TEXT, AUDIO, FACE])))
def test_every_step_runs_once_and_after_what_it_reads(order: tuple) -> None:
    tasks = schedule([*order, QUERY, KERNEL, SCORE])
    steps = [task.step for task in tasks if isinstance(task, Task)]
    assert steps == [*order, QUERY, KERNEL, SCORE]
    assert tasks.index(Order.FORK) == 0
    assert tasks.index(Order.JOIN) < tasks.index(Task(KERNEL, False))
