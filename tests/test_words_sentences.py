"""Where sentences end, and full stops that end none."""

import pytest

from psamf_edge.words.sentences import ends_sentence
from psamf_edge.words.timed import TimedText
from psamf_edge.words.transcript import Transcript
from psamf_edge.words.utterances import plan_utterances, split_sentences


@pytest.mark.parametrize(
    "sentence",
    [
        "Mr. Smith likes Mrs. Jones.",
        "MR. SMITH LIKES MS. JONES.",
        "Dr. No is a film vs. Dr. Strange, e.g. here.",
        "J. K. Rowling met J. A. Smith.",
        "I was in the U.S. Army and left the U.S. in 2001.",
        "It opens at 9 a.m. and closes at 5 p.m. on Monday.",
        "Popcorn, soda, etc. were cold at St. Louis.",
        "She has a Ph.D. from (J. Smith) himself.",
    ],
)
def test_abbreviations_inside_a_sentence(sentence):
    assert split_sentences(sentence) == [sentence]
    assert split_sentences(f"Yes. {sentence} He left.") == ["Yes.", sentence, "He left."]


@pytest.mark.parametrize(
    "sentences",
    [
        ["I moved to the U.S.", "It was great."],
        ["We came at 5 p.m.", "The room was empty."],
        ["I got an A.", "That's nice."],
        ["So do I.", "Great film."],  # a lone I is the pronoun
        ["No.", "No.", "Never."],
        ["She lives on Main St.", '"I hated it."'],
        ["Popcorn, soda, etc.", "The staff was nice."],
        ["One more rep.", "Done."],
        ["i like it.", "he left."],
        ["Well...", "Mr. T is back."],
    ],
)
def test_what_does_end_a_sentence(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_name_across_two_captions_stays_together():
    captions = [TimedText(0, 1000, "I met Mr."), TimedText(1000, 2000, "Smith today."), TimedText(2000, 3000, "Nice.")]
    plan = plan_utterances(Transcript("file", captions, None), [], 3000)
    assert [utterance.text for utterance in plan] == ["I met Mr. Smith today.", "Nice."]


def test_the_last_words_of_all_end_a_sentence():
    assert ends_sentence("He is in the U.S.", "")
    assert ends_sentence("", "He") is False
