"""json, csv, srt and vtt, read back by parsers that are not ours."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from report_samples import EDGES, HOSTILE_TEXTS, hostile, many, still_image, three

import psamf_edge.report
from psamf_edge.errors import PsamfError, UsageError
from psamf_edge.report import FORMATS, render, summary_line
from psamf_edge.report.escape import printable
from psamf_edge.report.wording import seconds, signed
from psamf_edge.result import MODALITIES, ModalityReport

TEXT_FORMATS = [name for name in FORMATS if name != "png"]
SCHEMA_FILE = Path(psamf_edge.report.__file__).with_name("schema.json")


@pytest.fixture(params=EDGES.values(), ids=EDGES.keys())
def result(request):
    return request.param


def test_json_has_the_keys_of_the_design():
    document = json.loads(render([three()], "json"))
    keys = "schema, clip, sha256, duration_ms, model, score, label, segments, timing_ms, warnings"
    assert ", ".join(document) == keys
    assert document["schema"] == "psamf-edge/1"
    assert list(document["model"]) == ["name", "manifest_sha256", "backend", "precision"]
    segment = document["segments"][2]
    assert list(segment) == ["start_ms", "end_ms", "text", "score", "label", "confidence", "modalities"]
    assert segment["modalities"]["text"] == {"state": "present", "contribution": -0.9}
    assert segment["modalities"]["face"] == {"state": "missing", "contribution": None}
    assert document["segments"][1]["score"] == 2.8765


def test_json_follows_its_schema(result):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads(SCHEMA_FILE.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(json.loads(render([result], "json")))
    broken = json.loads(render([three()], "json")) | {"score": 3.1}
    assert not validator.is_valid(broken)


def test_json_keeps_every_text_that_unicode_can_hold():
    document = json.loads(render([hostile()], "json"))
    expected = [text.replace("\udc80", "\ufffd") for text in HOSTILE_TEXTS]
    assert [segment["text"] for segment in document["segments"]] == expected


def test_json_is_one_ascii_line_a_clip():
    text = render([three(), hostile(), still_image()], "json")
    assert text.isascii()
    assert [json.loads(line)["clip"] for line in text.splitlines()][::2] == ["talk.mp4", "portrait.png"]
    assert text.count("\n") == 3


def test_json_takes_numpy_numbers_and_never_says_minus_zero():
    segment = replace(three().segments[0], score=np.float32(-0.00001), start_ms=np.int64(300))
    document = json.loads(render([replace(three(), score=np.float32(0.5), segments=[segment])], "json"))
    assert document["score"] == 0.5
    assert math.copysign(1, document["segments"][0]["score"]) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", FORMATS)
def test_no_format_writes_a_number_that_is_none(format, bad):
    segment = three().segments[0]
    face = {"face": ModalityReport("present", bad)}
    for broken, name in [
        (replace(three(), score=bad), "score"),
        (replace(three(), timing_ms={"decode": bad}), "timing_ms.decode"),
        (replace(three(), segments=[replace(segment, score=bad)]), r"segments\[0\].score"),
        (replace(three(), segments=[replace(segment, confidence=bad)]), r"segments\[0\].confidence"),
        (replace(three(), segments=[replace(segment, modalities=segment.modalities | face)]), "face.contribution"),
    ]:
        with pytest.raises(PsamfError, match=name):
            render([broken], format)


def test_csv_reads_back():
    rows = list(csv.DictReader(io.StringIO(render([three(), still_image()], "csv"), newline="")))
    columns = (
        "clip, start_ms, end_ms, text, score, label, confidence, text_state, text_contribution, "
        "audio_state, audio_contribution, face_state, face_contribution"
    )
    assert ", ".join(rows[0]) == columns
    assert len(rows) == 4
    assert rows[1]["text"] == "What a wonderful ending!"
    assert float(rows[1]["score"]) == 2.8765
    assert float(rows[2]["score"]) == -1.8, "a negative number stays a number"
    assert (rows[2]["face_state"], rows[2]["face_contribution"]) == ("missing", "")
    assert (rows[3]["clip"], rows[3]["text"], rows[3]["end_ms"]) == ("portrait.png", "", "0")


def test_csv_holds_no_formula_and_ends_lines_as_the_rfc_says():
    text = render([hostile()], "csv")
    assert len(re.findall("\r\n", text)) == text.count("\n") == text.count("\r") == len(HOSTILE_TEXTS) + 1
    for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
        assert not row["clip"].startswith(tuple("=+-@\t\r"))
        assert not row["text"].startswith(tuple("=+-@\t\r"))
        float(row["score"])


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles_read_back_by_ffmpeg(format, result, tmp_path):
    file = tmp_path / f"cues.{format}"
    file.write_bytes(render([result], format).encode())
    with av.open(str(file)) as container:
        stream = container.streams.subtitles[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        unit_ms = stream.time_base * 1000
    assert len(packets) == len(result.segments)
    for packet, segment in zip(packets, result.segments, strict=True):
        assert packet.pts * unit_ms == segment.start_ms
        assert (packet.pts + packet.duration) * unit_ms == max(segment.end_ms, segment.start_ms + 1)
        cue = bytes(packet).decode()
        assert cue.startswith(f"[{signed(segment.score)} {segment.label}]")
        if format == "vtt":
            cue = cue.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            assert cue == f"[{signed(segment.score)} {segment.label}] {printable(segment.text or '')}".rstrip()


def test_srt_says_what_was_said():
    assert render([three()], "srt").startswith(
        "1\n00:00:00,300 --> 00:00:02,600\n[+0.2 neutral] I saw this film last night.\n\n2\n"
    )


def test_cues_hold_no_tag_and_no_arrow():
    for format in ("srt", "vtt"):
        body = render([hostile()], format)
        assert body.count("-->") == len(HOSTILE_TEXTS)
        assert "<" not in body
    assert "{" not in render([hostile()], "srt"), "players read {\\an8} as a place on the screen"


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_text_is_encodable_and_without_control_characters(format):
    text = render([hostile()], format)
    text.encode()
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\r\n\t"]
    assert "\u202e" not in text


@pytest.mark.parametrize("format", FORMATS)
def test_same_result_same_bytes(format):
    assert render([three()], format) == render([three()], format)


@pytest.mark.parametrize("format", FORMATS)
def test_formats_hold_one_clip_or_several(format):
    clips = [three(), still_image()]
    if FORMATS[format].multi_clip:
        assert "portrait.png" in render(clips, format)
        assert "portrait.png" not in render([], format)
    else:
        with pytest.raises(UsageError, match=f"{format} holds one clip and 2 were given.*json, csv, html"):
            render(clips, format)


@pytest.mark.parametrize("format", FORMATS)
def test_clip_without_utterances_is_written_too(format):
    written = render([replace(three(), segments=[])], format)
    assert len(written) > 0 or format == "srt", "SubRip has no header"


def test_writers_load_no_heavy_package():
    check = (
        "import sys, psamf_edge.report; sys.exit(bool({'av', 'matplotlib', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_unknown_format_names_the_known_ones():
    with pytest.raises(UsageError, match=r"'xml'; choose one of json, csv, srt, vtt, svg, png, html\."):
        render([three()], "xml")


def test_summary_line():
    assert summary_line(three()) == "talk.mp4: +1.0 positive, 3 utterances in 7.1 s, 1 warning"
    assert summary_line(still_image()) == "portrait.png: -1.1 negative, 1 utterance"
    assert summary_line(hostile()).isprintable()
    assert summary_line(many(400)).endswith("400 utterances in 6:40")


@pytest.mark.parametrize(
    ("ms", "said"), [(0, "0.0 s"), (119_900, "119.9 s"), (120_000, "2:00"), (3_661_000, "1:01:01")]
)
def test_seconds(ms, said):
    assert seconds(ms) == said


def test_samples_cover_every_state():
    states = {s.modalities[name].state for r in EDGES.values() for s in r.segments for name in MODALITIES}
    assert states == {"present", "missing", "degraded"}
