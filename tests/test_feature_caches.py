"""The features of voices and faces that a run folder keeps are of these recordings and pictures, and of no others."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tqdm", reason="the compile extra is not installed")

from psamf_edge.compile.data import speech
from psamf_edge.compile.data.faces import load_faces
from psamf_edge.compile.data.speech import load_speech
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

ANGRY, HAPPY = "ravdess/03-01-05-01-01-01-01.wav", "emodb/03a01Fa.wav"


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "decode", lambda reader, path: np.zeros(16_000, np.float32))
    for name in (ANGRY, HAPPY):
        (tmp_path / "speech" / name).parent.mkdir(parents=True)
        (tmp_path / "speech" / name).touch()
    return tmp_path / "speech"


def without(cache, name):
    """The same cache as an older version wrote it."""
    with np.load(cache) as stored:
        np.savez(cache, **{key: stored[key] for key in stored if key != name})


@pytest.mark.parametrize("stray", ["notes.wav", "._03a01Fa.wav", "03-01-09-01-01-01-01.wav", "03a01Xa.opus", "a.opus"])
def test_a_stray_recording_is_named_before_the_work(recordings, tmp_path, monkeypatch, stray):
    def decode(reader, path):
        raise AssertionError("20 minutes of work")

    monkeypatch.setattr(speech, "decode", decode)
    (recordings / "emodb" / stray).touch()
    with pytest.raises(UsageError, match=f"emodb/{stray} has no name as RAVDESS and EMO-DB give"):
        load_speech(recordings, tmp_path / "cache.npz")


def test_voices_are_kept_for_these_recordings_alone(recordings, tmp_path):
    cache, moved = tmp_path / "cache.npz", tmp_path / "moved"
    assert load_speech(recordings, cache).emotions.tolist() == ["happy", "angry"]
    recordings.rename(moved)
    kept = cache.read_bytes()
    load_speech(moved, cache)
    assert cache.read_bytes() == kept
    (moved / HAPPY).rename(moved / HAPPY.replace("Fa", "Wa"))  # as many, of another
    with pytest.raises(UsageError, match="was made from other files"):
        load_speech(moved, cache)
    without(cache, "recordings")  # nobody knows, then, and 20 minutes are not thrown away
    assert load_speech(moved, cache).emotions.tolist() == ["angry", "angry"]
    (moved / HAPPY).touch()
    with pytest.raises(UsageError, match="was made from other files"):
        load_speech(moved, cache)


class Faces:
    """In the place of a FacePath: `count` faces in each picture, 0 or 1."""

    def __init__(self, count):
        self.count = count

    def start(self):
        pass

    def observe(self, image, time_ms):
        pass

    def features(self, start_ms, end_ms):
        return SimpleNamespace(values=np.ones((self.count, len(VISION_FEATURES)), np.float32))


def pictures(path, shade):
    np.savez(path, images=np.full((2, 48, 48), shade, np.uint8), labels=[0, 0], classes=["happy"])
    return path


def test_faces_are_kept_for_this_archive_alone(tmp_path):
    archive, cache = pictures(tmp_path / "a.npz", 0), tmp_path / "cache.npz"
    assert len(load_faces(archive, Faces(1), cache)) == 2
    archive.rename(tmp_path / "moved.npz")
    assert len(load_faces(tmp_path / "moved.npz", None, cache)) == 2
    assert len(load_faces(archive, None, cache)) == 2  # the pictures may go
    pictures(archive, 1)
    with pytest.raises(UsageError, match="was made from other pictures"):
        load_faces(archive, None, cache)
    without(cache, "archive")
    assert len(load_faces(archive, None, cache)) == 2


def test_no_pictures_and_no_faces_in_them(tmp_path):
    with pytest.raises(UsageError, match=r"There is no file .*a\.npz"):
        load_faces(tmp_path / "a.npz", Faces(1), tmp_path / "cache.npz")
    pictures(tmp_path / "a.npz", 0)
    with pytest.raises(UsageError, match="No face was found"):
        load_faces(tmp_path / "a.npz", Faces(0), tmp_path / "cache.npz")
    assert not (tmp_path / "cache.npz").exists()
