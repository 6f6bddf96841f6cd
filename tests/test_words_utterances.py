"""Utterance planning: worked examples, and what must hold for any transcript."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.errors import UsageError
from psamf_edge.words.timed import TimedText, repair_times
from psamf_edge.words.transcript import Transcript
from psamf_edge.words.utterances import (
    MAX_SENTENCE_CHARS,
    Utterance,
    plan_utterances,
    split_sentences,
)


def timed(*captions):
    captions = [TimedText(*c) for c in captions]
    return Transcript("file", captions, " ".join(c.text for c in captions) or None)


def untimed(text):
    return Transcript("given", [], text)


def test_captions_are_joined_to_sentences():
    transcript = timed((0, 1000, "I liked"), (1200, 2000, "it a lot."), (2100, 3000, "Then it"), (3000, 4000, "ended"))
    assert plan_utterances(transcript, [], 5000) == [
        Utterance(0, 2000, "I liked it a lot."),
        Utterance(2100, 4000, "Then it ended"),
    ]


def test_joining_stops_at_max_ms_and_at_long_pauses():
    transcript = timed((0, 800, "a"), (900, 1700, "b"), (1800, 2400, "c"), (9000, 9500, "d"))
    assert plan_utterances(transcript, [], 20_000, max_ms=2000) == [
        Utterance(0, 1700, "a b"),
        Utterance(1800, 2400, "c"),
        Utterance(9000, 9500, "d"),
    ]


def test_captions_are_moved_into_the_clip():
    transcript = timed((500, 500, "Hi."), (3000, 9000, "Cut."), (9000, 9900, "Beyond."))
    assert plan_utterances(transcript, [], 4000) == [
        Utterance(500, 500 + 3 * 65, "Hi."),
        Utterance(3000, 4000, "Cut. Beyond."),
    ]


def test_captions_all_beyond_the_clip_keep_their_words():
    assert plan_utterances(timed((9000, 9500, "a."), (9600, 9900, "b.")), [], 4000) == [Utterance(0, 4000, "a. b.")]


def test_text_without_times_in_a_short_clip_is_one_utterance():
    assert plan_utterances(untimed("One. Two."), [(1, 2)], 15_000) == [Utterance(0, 15_000, "One. Two.")]
    assert plan_utterances(untimed("One only."), [(1, 2)], 60_000) == [Utterance(0, 60_000, "One only.")]


def test_sentences_share_the_speech_by_their_length():
    text = "Aaaaaaaaa. Bbbbbbbbb. Cccccccccccccccccccc."
    spans = [(1000, 11_000), (20_000, 30_000)]
    assert plan_utterances(untimed(text), spans, 40_000) == [
        Utterance(1000, 1000 + 20_000 * 10 // 41, "Aaaaaaaaa."),
        Utterance(1000 + 20_000 * 10 // 41, 1000 + 20_000 * 20 // 41, "Bbbbbbbbb."),
        Utterance(1000 + 20_000 * 20 // 41, 30_000, "Cccccccccccccccccccc."),
    ]


def test_a_sentence_does_not_begin_or_end_in_a_pause():
    spans = [(0, 10_000), (20_000, 30_000)]
    assert plan_utterances(untimed("Abcd efg. Hijk lmn."), spans, 40_000) == [
        Utterance(0, 10_000, "Abcd efg."),
        Utterance(20_000, 30_000, "Hijk lmn."),
    ]


def test_speech_without_words_is_joined_and_split():
    spans = [(0, 4000), (5000, 9000), (20_000, 44_000)]
    assert plan_utterances(untimed(None), spans, 50_000) == [
        Utterance(0, 9000),
        Utterance(20_000, 32_000),
        Utterance(32_000, 44_000),
    ]


def test_silent_video_is_cut_evenly():
    assert plan_utterances(untimed(None), [], 31_000) == [
        Utterance(0, 10_333),
        Utterance(10_333, 20_666),
        Utterance(20_666, 31_000),
    ]


@pytest.mark.parametrize("duration", [0, -5])
def test_image_is_one_utterance(duration):
    assert plan_utterances(timed((0, 10, "a.")), [], duration) == [Utterance(0, 0, "a.")]


def test_nonsense_limit_is_refused():
    with pytest.raises(UsageError, match="positive"):
        plan_utterances(untimed("a"), [], 1000, max_ms=0)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Really?! Yes... no", ["Really?!", "Yes...", "no"]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("It costs 3.50 at example.com now", ["It costs 3.50 at example.com now"]),
        ("好き。嫌い！", ["好き。", "嫌い！"]),
        ("word " * 100, [("word " * 48).strip(), ("word " * 48).strip(), ("word " * 4).strip()]),
        ("x" * 500, ["x" * 500]),
        ("", [""]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


WORDS = st.lists(st.sampled_from(["so", "I", "liked", "it.", "why?", "我。", "e" * 300]), min_size=1, max_size=60)
TIMES = st.integers(-2000, 90_000)
CAPTIONS = st.lists(st.builds(TimedText, TIMES, TIMES, WORDS.map(" ".join)), max_size=12)
SPANS = st.lists(st.integers(0, 90_000), unique=True, max_size=16).map(
    lambda edges: list(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)


def letters(texts):
    """All characters but spaces: Chinese sentences are joined with one."""
    return "".join("".join(text.split()) for text in texts if text)


@settings(deadline=None)  # the time of one example says nothing on a busy machine
@given(CAPTIONS, WORDS | st.none(), SPANS, st.integers(0, 80_000), st.integers(1, 20_000), st.booleans())
def test_any_plan_is_in_order_inside_complete_and_short(captions, words, spans, duration, max_ms, whole):
    captions, _ = repair_times(captions)
    text = " ".join(c.text for c in captions) if captions else words and " ".join(words)
    plan = plan_utterances(Transcript("file", captions, text), spans, duration, max_ms, whole)
    edges = [edge for u in plan for edge in (u.start_ms, u.end_ms)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= duration
    assert letters(u.text for u in plan) == letters([text])
    if whole:
        assert plan == [Utterance(0, duration, text)]
        return
    assert duration == 0 or all(u.end_ms > u.start_ms for u in plan)
    for u in plan:
        if u.end_ms - u.start_ms > max_ms:
            # captions without a time of their own in the clip share a beginning with the one they were joined to
            begins = {min(max(c.start_ms, 0), duration) for c in captions}
            assert sum(u.start_ms <= b < u.end_ms for b in begins) <= 1
            assert u.text is not None


@settings(deadline=None)
@given(WORDS)
def test_sentences_are_short_and_complete(words):
    sentences = split_sentences(" ".join(words))
    assert letters(sentences) == letters(words)
    assert all(len(s) <= MAX_SENTENCE_CHARS or " " not in s for s in sentences)


def test_hostile_sizes_end_quickly():
    many = [TimedText(10**6 + i, 10**6 + i + 1, "late words") for i in range(20_000)]
    assert len(plan_utterances(timed(*[(c.start_ms, c.end_ms, c.text) for c in many]), [], 1000)) == 1
    spans = [(i * 10, i * 10 + 5) for i in range(5000)]
    assert plan_utterances(untimed("No. " * 20_000), spans, 50_000)[-1].end_ms == 49_995
