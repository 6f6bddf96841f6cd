"""What is fuzzed: each target takes any bytes, and raises only if the product did something that it must not do.

The errors that each reader documents are its right answer to junk. Anything else is a failure: another exception, a
result that breaks its promise, or a sentence of several lines.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from psamf_edge.backends.external_data import refuse_external_data
from psamf_edge.bundle import DEFAULT_BUNDLE, MANIFEST, is_plain_name, open_bundle
from psamf_edge.dataset import read_rows
from psamf_edge.errors import InputError, IntegrityError, PsamfError, UsageError
from psamf_edge.media import protocol
from psamf_edge.media.events import AudioChunk, ClipFooter, Frame
from psamf_edge.media.limits import Limits
from psamf_edge.media.reader import MediaReader
from psamf_edge.words.subtitles import SUFFIXES, read_text_file
from psamf_edge.words.transcript import Transcript
from psamf_edge.words.utterances import plan_utterances
from psamf_edge.words.wordpiece import WordPiece

CORPUS = Path(__file__).parent / "corpus"
CLIP_MS = 60_000  # of the clip that fuzzed captions are laid over


@dataclass(frozen=True)
class Target:
    """run: the thing itself. words: what is worth putting into its input. made: the corpus, where it is no files."""

    run: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()
    made: Callable[[], list[bytes]] | None = None

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def corpus(self) -> list[bytes]:
        """The inputs to start from: files of tests/fuzz/corpus/NAME, or what was made."""
        if self.made is not None:
            return self.made()
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


@contextmanager
def allowed(*kinds: type[PsamfError]) -> Iterator[None]:
    """The errors that are a good answer, if they say something."""
    try:
        yield
    except kinds as error:
        if not str(error).endswith("."):
            raise AssertionError(f"no sentence: {error}") from error


@cache
def _folder() -> Path:
    """One folder for the whole run; it ends with the process."""
    _folder.keep = tempfile.TemporaryDirectory(prefix="psamf-edge-fuzz-")
    folder = Path(_folder.keep.name)
    (folder / "bundle.psamf").mkdir()
    for name in ("all.onnx", "vocab.txt"):
        (folder / "bundle.psamf" / name).write_bytes(b"")
    return folder


def manifest(data: bytes) -> None:
    path = _folder() / "bundle.psamf"
    (path / MANIFEST).write_bytes(data)
    with allowed(IntegrityError):
        bundle = open_bundle(path)
        assert all(is_plain_name(name) for name in bundle.files)
        assert {step.file for step in bundle.plan if hasattr(step, "file")} <= set(bundle.files)
        for name in bundle.files:
            assert bundle.read(name) == b""
        assert all(1 <= value <= 1 << 20 for value in vars(bundle.shapes).values())


def subtitle(data: bytes) -> None:
    """The first byte chooses the kind of file."""
    path = _folder() / f"words{SUFFIXES[data[0] % len(SUFFIXES) if data else 0]}"
    path.write_bytes(data[1:])
    with allowed(InputError):
        content = read_text_file(path)
        assert all(a.start_ms <= a.end_ms <= b.start_ms for a, b in zip(content.timed, content.timed[1:], strict=False))
        assert all(caption.text == " ".join(caption.text.split()) != "" for caption in content.timed)
        if content.timed:
            assert content.text == " ".join(caption.text for caption in content.timed)
        transcript = Transcript("file", content.timed, content.text)
        utterances = plan_utterances(transcript, [(500, 20_000), (21_000, 59_000)], CLIP_MS)
        edges = [ms for utterance in utterances for ms in (utterance.start_ms, utterance.end_ms)]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= CLIP_MS
        if content.text:
            said = " ".join(utterance.text or "" for utterance in utterances)
            assert "".join(said.split()) == "".join(content.text.split())  # no word is lost, none is made


@cache
def _wordpiece() -> WordPiece:
    return WordPiece((DEFAULT_BUNDLE / "vocab.txt").read_bytes())


def wordpiece(data: bytes) -> None:
    """The first byte is the greatest number of tokens."""
    tokenizer = _wordpiece()
    limit = 2 + (data[0] if data else 0)
    text = data[1:].decode("utf-8", "surrogatepass" if len(data) % 2 else "replace") if _decodes(data[1:]) else ""
    encoded = tokenizer.encode(text, limit)
    assert 2 <= len(encoded.ids) <= limit
    assert (encoded.ids[0], encoded.ids[-1]) == (101, 102)  # [CLS] and [SEP] of BERT's vocabulary
    assert not {0, 101, 102} & set(encoded.ids[1:-1].tolist())  # the text forges no structure
    assert (encoded.ids >= 0).all()
    assert (encoded.ids < len(tokenizer)).all()
    assert (encoded.ids == tokenizer.encode(text, limit).ids).all()
    if not encoded.truncated:
        assert (encoded.ids == tokenizer.encode(f"  {text}\n", limit).ids).all()


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def vocabulary(data: bytes) -> None:
    with allowed(IntegrityError):
        tokenizer = WordPiece(data)
        ids = tokenizer.encode("a word, and another: Ünïcödé 日本 [SEP] ##a").ids
        assert (ids >= 0).all()
        assert (ids < len(tokenizer)).all()


def dataset(data: bytes) -> None:
    path = _folder() / "rows.csv"
    path.write_bytes(data)
    with allowed(UsageError):
        for row in read_rows(path):
            assert -3 <= row.label <= 3
            assert row.text is None or row.text.strip()


def media_protocol(data: bytes) -> None:
    """Message after message until the bytes end, as from a decoder that was taken over."""
    stream = io.BytesIO(data)

    def read_exactly(size: int) -> bytes:
        chunk = stream.read(size)
        if len(chunk) < size:
            raise EOFError
        return chunk

    try:
        while True:
            kind, fields, payload_bytes = protocol.receive(read_exactly)
            assert isinstance(kind, protocol.Kind)
            assert isinstance(fields, dict)
            assert 0 <= payload_bytes <= protocol.MAX_PAYLOAD_BYTES
            again = protocol.pack(kind, fields, payload_bytes)
            parsed = protocol.receive(io.BytesIO(again).read)
            assert json.dumps(parsed[1]) == json.dumps(fields)
            read_exactly(payload_bytes)
    except (EOFError, protocol.ProtocolError):
        return


@cache
def _clips() -> list[bytes]:
    """A small clip of each family of containers and codecs."""
    from tests import media_files as files

    folder = _folder() / "clips"
    folder.mkdir(exist_ok=True)
    captions = [(0, 300, "Well, hello.")]
    files.write_clip(folder / "a.mp4", 0.4, rate=16_000, captions=captions)
    files.write_clip(folder / "b.mkv", 0.4, rate=16_000, audio_codec="pcm_s16le")
    files.write_clip(folder / "c.webm", 0.4, video_codec="libvpx", audio_codec="libopus")
    files.write_clip(folder / "d.avi", 0.2, video_codec="mpeg4", audio_codec="libmp3lame")
    files.write_clip(folder / "e.ts", 0.4, video_codec="mpeg2video", audio_codec="mp2")
    files.write_clip(folder / "f.wav", 0.2, size=None, rate=16_000, audio_codec="pcm_s16le")
    files.write_clip(folder / "g.flac", 0.4, size=None, rate=16_000, audio_codec="flac")
    files.write_image(folder / "h.png")
    files.write_image(folder / "i.jpg")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@cache
def _reader() -> MediaReader:
    return MediaReader(Limits.of({"seconds": 600, "deadline": 30, "memory": 1 << 30}))


def media_clip(data: bytes) -> None:
    """A damaged clip, through the child. That the decoder dies over it is an answer, and the next clip gets another."""
    path = _folder() / "clip"
    path.write_bytes(data)
    with allowed(InputError):
        frame_ms, audio_end, footer = -1, None, None
        for event in _reader().read(path, max_side=64):
            match event:
                case Frame():
                    assert max(event.image.shape) <= 64
                    assert event.time_ms >= frame_ms
                    frame_ms = event.time_ms
                case AudioChunk():
                    assert np.isfinite(event.samples).all()
                    assert audio_end is None or abs(16 * event.start_ms - audio_end) <= 16  # no hole, to a millisecond
                    audio_end = (16 * event.start_ms if audio_end is None else audio_end) + len(event.samples)
                case ClipFooter():
                    footer = event
        assert footer.partial == bool(footer.warnings)


def onnx_file(data: bytes) -> None:
    with allowed(IntegrityError):
        refuse_external_data(data, "fuzzed.onnx")
        # what is let through names no other file: protobuf's strings lie in the bytes as they are
        if b"\x0a\x08location" in data:
            _no_external_tensor(data)


def _no_external_tensor(data: bytes) -> None:
    """By the reference parser, where there is one."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        return
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return
    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute)]
    assert not any(tensor.external_data or tensor.data_location for tensor in tensors)


def signature(data: bytes) -> None:
    from psamf_edge.signature import verify

    with allowed(IntegrityError):
        verify(b"manifest", data, frozenset())
        raise AssertionError("a signature of nobody held")


def audio_samples(data: bytes) -> None:
    """Any floats at all, NaN and the largest among them, as the sound of a clip."""
    from psamf_edge.audio.features import extract_counted
    from psamf_edge.words.silence import speech_spans

    samples = np.frombuffer(data[: len(data) // 4 * 4], np.float32)  # (N,)
    found = extract_counted(samples)
    assert np.isfinite(found.values).all()
    assert found.bad_samples == int((~np.isfinite(samples)).sum())
    assert len(found.values) == -(-len(samples) // 160)
    spans = speech_spans(samples)
    assert all(0 <= start < end <= len(samples) // 16 for start, end in spans)


JSON_WORDS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"1e999", b"NaN", b"-1", b'"\\ud800"', b"9" * 50)
TARGETS = {
    target.name: target
    for target in (
        Target(manifest, (*JSON_WORDS, b"../", b"manifest.json", b'"kernel"', b'"engine"', b'"plan"', b'"size"')),
        Target(
            subtitle,
            (
                b"-->",
                b"\n\n",
                b"WEBVTT\n",
                b"00:00:01,000 --> 00:00:02,000\n",
                b"NOTE ",
                b"&lt;",
                b"{\\an8}",
                b"<i>",
                b"\xff\xfe",
                b"\0",
                b"9999:59:59.999",
                b"\xe2\x80\xa8",
                b". ",
            ),
        ),
        Target(
            wordpiece,
            (
                b"[SEP]",
                b"##",
                b"\xcc\x81",
                b"\xe6\x97\xa5",
                b"\xef\xbf\xbd",
                b"\xf0\x9f\x98\x80",
                b"a" * 101,
                b"\xc4\xb0",
                b"\xed\xa0\x80",
                b"\xe2\x80\x8b",
            ),
        ),
        Target(vocabulary, (b"[UNK]\n", b"[CLS]\n", b"[SEP]\n", b"[PAD]\n", b"##", b"\r\n", b"\n\n")),
        Target(
            dataset, (b"id,clip,text,label", b"\r\n", b'"', b'""', b",", b"nan", b"1e9", b"-3", b"\xef\xbb\xbf", b"\0")
        ),
        Target(
            media_clip,
            (
                b"moov",
                b"mdat",
                b"stts",
                b"RIFF",
                b"fmt ",
                b"OpusHead",
                b"\x1a\x45\xdf\xa3",
                b"\xff" * 4,
                bytes(8),
                b"\x47",
            ),
            _clips,
        ),
        Target(media_protocol, (*JSON_WORDS, *(protocol.PREFIX.pack(kind, 2, 0) + b"{}" for kind in protocol.Kind))),
        Target(onnx_file, (b"location", b"\x70\x01", b"\x6a\x0f\x0a\x08location\x12\x03abc", b"\xff\xff\xff\xff\x7f")),
        Target(
            signature, (b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----", b"U1NIU0lH", b"\n", b"AAAA")
        ),
        Target(
            audio_samples,
            (
                np.float32(np.nan).tobytes(),
                np.float32(np.inf).tobytes(),
                np.float32(3e38).tobytes(),
                np.float32(1e-45).tobytes(),
                np.float32(-1).tobytes(),
            ),
        ),
    )
}
