"""Results for the tests of the writers: ordinary ones, hostile ones and the edges."""

from __future__ import annotations

import math

from psamf_edge.result import MODALITIES, ModalityReport, ModelIdentity, Result, Segment, label_of

HOSTILE_TEXTS = [
    "<script>alert(1)</script>",
    "</style></title></svg><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r-2",
    "\x1b[31mred\x1b]0;title\x07",
    "\x9b2J and \x90",
    "1\n\n2\n00:00:00,000 --> 00:00:01,000\nfalse cue",
    "a --> b & c < d",
    "null \x00 byte",
    "right \u202eto left\u2066",
    "half a pair \udc80 and \ufffe",
    "{\\an8}up <b>bold</b>",
    "quote \" and ' and , comma",
    "$x^2$ is not mathematics, \\alpha is not a letter",
    "日本語の文章です 🙂",
    "word" * 2500,
    "   ",
    "",
]


def make_segment(
    start_ms: int, end_ms: int, text: str | None, score: float, missing: tuple[str, ...] = (), degraded: str = ""
) -> Segment:
    modalities = {}
    for place, name in enumerate(MODALITIES):
        state = "missing" if name in missing else "degraded" if name == degraded else "present"
        contribution = None if name in missing else score / 2 - 0.4 * place
        modalities[name] = ModalityReport(state, contribution)
    return Segment(start_ms, end_ms, text, score, label_of(score), 0.5 + abs(score) / 6, modalities)


def make_result(segments: list[Segment], clip: str = "talk.mp4", warnings: tuple[str, ...] = ()) -> Result:
    whole = sum(s.end_ms - s.start_ms for s in segments)
    score = sum(s.score * (s.end_ms - s.start_ms) for s in segments) / whole if whole else segments[0].score
    return Result(
        clip,
        "ab" * 32,
        segments[-1].end_ms,
        ModelIdentity("psamf-student", "cd" * 32, "onnxruntime", "int8"),
        score,
        label_of(score),
        segments,
        {"decode": 141.23456, "fusion": 1.9},
        list(warnings),
    )


def three() -> Result:
    return make_result(
        [
            make_segment(300, 2600, "I saw this film last night.", 0.2, degraded="audio"),
            make_segment(2800, 5700, "What a wonderful ending!", 2.87654321),
            make_segment(5900, 7100, "The price was a shame, though.", -1.8, missing=("face",)),
        ],
        warnings=("2 of 90 video frames could not be decoded.",),
    )


def still_image() -> Result:
    return make_result([make_segment(0, 0, None, -1.1, missing=("text", "audio"))], clip="portrait.png")


def many(count: int) -> Result:
    segments = [
        make_segment(
            1000 * index,
            1000 * index + 900,
            f"Utterance {index} says a few words." if index % 5 else None,
            3 * math.sin(index),
            missing=("face",) if index % 7 in (2, 3) else (),
        )
        for index in range(count)
    ]
    return make_result(segments, clip="/long/path/" + "x" * 300 + ".mp4")


def hostile() -> Result:
    """Every hostile text as words and as a warning; one with nearly everything as the file name."""
    segments = [
        make_segment(1000 * index, 1000 * index + 1000, text, (index % 7) - 3.0)
        for index, text in enumerate(HOSTILE_TEXTS)
    ]
    clip = "=<script>alert(1)</script>$\\frac$\x1b[31m\n-->\x00\u202e\udc80.mp4"
    return make_result(segments, clip, tuple(HOSTILE_TEXTS))


EDGES = {"three": three(), "still": still_image(), "one": make_result([make_segment(0, 2000, "Fine.", 0.0)])}
EDGES |= {"four hundred": many(400), "hostile": hostile()}
