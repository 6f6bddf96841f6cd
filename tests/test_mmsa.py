"""MMSA's feature files: what is read of them, what is refused, the safe file they become, and the way back."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from dataclasses import fields

import mmsa_files
import numpy as np
import pytest
from click.testing import CliRunner
from mmsa_files import SIZES, STEPS, MmsaLoader, content, padded, write

from psamf_edge.cli import main
from psamf_edge.compile.data.feature_file import MmsaSet, load_features, read_header, save_features
from psamf_edge.compile.data.mmsa import read_mmsa, write_mmsa
from psamf_edge.compile.data.streams import read_streams
from psamf_edge.errors import InputError, UsageError

CLEAN = {"minus_inf": 0, "plus_inf": 0, "nan": 0, "empty": 0, "outside": 0}


def equal(one: MmsaSet, other: MmsaSet) -> bool:
    def same(a, b):
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and np.array_equal(a, b)
        return len(a) == len(b) and all(x == y if isinstance(x, str) else same(x, y) for x, y in zip(a, b, strict=True))

    return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(MmsaSet))


def run(*arguments):
    return CliRunner().invoke(main, ["extract", *map(str, arguments)])


class TestReading:
    @pytest.mark.parametrize("aligned", [False, True])
    @pytest.mark.parametrize("front", [(), ("audio",), ("vision",), ("audio", "vision")])
    def test_padding_is_found_in_each_stream(self, tmp_path, front, aligned):
        file = read_mmsa(write(tmp_path / "a.pkl", content(front=front, aligned=aligned)))
        for (split, got), seed in zip(file.sets.items(), (1, 2, 3), strict=True):
            wanted = mmsa_files.clips(len(got), seed)
            for stream in STEPS:
                assert all(np.array_equal(a, b) for a, b in zip(getattr(got, stream), wanted[stream], strict=True)), (
                    split
                )
                assert {row.dtype for row in getattr(got, stream)} == {np.dtype(np.float32)}
        for stream in STEPS:
            report = file.report[stream]
            votes = "front_votes", "end_votes"
            assert report["padding"] == ("front" if stream in front else "end")
            assert report[votes[stream not in front]] > 0 == report[votes[stream in front]]
            assert (report["size"], report["longest"]) == (SIZES[stream], STEPS[stream])
            assert report["lengths"] == ("found" if aligned else "declared")
            assert {name: report[name] for name in CLEAN} == CLEAN

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_text_labels_and_ids(self, tmp_path, protocol):
        made = content()
        file = read_mmsa(write(tmp_path / "a.pkl", made, protocol))
        for split, got in file.sets.items():
            assert got.ids == made[split]["id"].tolist()
            assert got.raw_text == made[split]["raw_text"].tolist()
            assert np.array_equal(got.text_ids, made[split]["text_bert"][:, 0])
            assert np.array_equal(got.text_mask, made[split]["text_bert"][:, 1])
            assert np.array_equal(got.labels, made[split]["regression_labels"].astype(np.float32))
            assert (got.text_ids.dtype, got.text_mask.dtype, got.labels.dtype) == (np.int64, np.float32, np.float32)

    def test_lists_in_place_of_arrays_and_splits_that_are_not_there(self, tmp_path):
        made = {"valid": content()["valid"]}
        for name in ("id", "raw_text", "regression_labels"):
            made["valid"][name] = made["valid"][name].tolist()
        made["valid"]["audio_lengths"] = np.array(made["valid"]["audio_lengths"], float)
        file = read_mmsa(write(tmp_path / "a.pkl", made))
        assert list(file.sets) == ["valid"]
        assert equal(file.sets["valid"], read_mmsa(write(tmp_path / "b.pkl", content())).sets["valid"])

    def test_words_padded_in_front_begin_at_the_start(self, tmp_path):
        made = content()
        text = made["train"]["text_bert"]
        for clip in text:
            clip[:] = np.roll(clip, mmsa_files.TOKENS - int(clip[1].sum()), axis=1)
        got = read_mmsa(write(tmp_path / "a.pkl", made)).sets["train"]
        assert equal(got, read_mmsa(write(tmp_path / "b.pkl", content())).sets["train"])

    def test_values_that_are_no_numbers_are_counted_and_set_to_zero(self, tmp_path):
        made = content(front=("audio",))
        made["train"]["audio"][0, -1] = [-np.inf, np.nan, 1, -np.inf, np.inf]
        made["test"]["vision"][2, 0, :3] = np.nan
        made["valid"]["audio"] = made["valid"]["audio"].astype(np.float64)
        made["valid"]["audio"][0, -1, 0] = 1e300  # no float32
        file = read_mmsa(write(tmp_path / "a.pkl", made))
        assert file.sets["train"].audio[0][-1].tolist() == [0, 0, 1, 0, 0]
        assert file.sets["test"].vision[2][0, :3].tolist() == [0, 0, 0]
        assert [file.report["audio"][name] for name in ("minus_inf", "plus_inf", "nan")] == [2, 2, 1]
        assert [file.report["vision"][name] for name in ("minus_inf", "plus_inf", "nan")] == [0, 0, 3]
        assert file.report["audio"]["padding"] == "front"
        assert all(np.isfinite(row).all() for clips in file.sets.values() for row in (*clips.audio, *clips.vision))

    def test_ids_that_come_twice_are_counted(self, tmp_path):
        made = content()
        made["test"]["id"][:2] = made["train"]["id"][:2]
        assert read_mmsa(write(tmp_path / "a.pkl", made)).report["repeated_ids"] == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: f.clear(), "must hold the splits"),
            (lambda f: f.update(dev=f["train"]), "holds train, valid, test, dev"),
            (lambda f: f.update(train=[1]), "split train: it is no dict but list"),
            (lambda f: f["test"].pop("audio"), "split test: it lacks audio"),
            (lambda f: f["test"].pop("text_bert"), "split test: it lacks text_bert"),
            (lambda f: f["test"].update(audio=f["valid"]["audio"]), "audio has the shape .* and 4 clips"),
            (lambda f: f["test"].update(audio=f["test"]["audio"][:, 0]), "audio has the shape"),
            (lambda f: f["test"].update(audio=f["test"]["audio"][:, :0]), "audio has the shape"),
            (lambda f: f["test"].update(audio=f["test"]["audio"][:, :, :3]), "audio has not the same size"),
            (lambda f: f["test"].update(audio=[[1.0]]), "audio is no array of numbers but list"),
            (lambda f: f["test"].update(audio=f["test"]["id"]), "audio holds no plain numbers"),
            (lambda f: f["test"].pop("audio_lengths"), "audio_lengths is in some splits"),
            (lambda f: f["test"].update(audio_lengths=[1, 2, 3]), "audio_lengths has the shape"),
            (lambda f: f["test"].update(audio_lengths=[1, 2, 3, 10]), "audio_lengths must be .* from 0 to 9"),
            (lambda f: f["test"].update(audio_lengths=[1, 2, 3, -1]), "audio_lengths must be"),
            (lambda f: f["test"].update(audio_lengths=[1, 2, 3, 0.5]), "audio_lengths must be"),
            (lambda f: f["test"].update(audio_lengths=[1, 2, 3, float("nan")]), "audio_lengths must be"),
            (lambda f: f["test"].update(regression_labels=[0, 0, 3.1, 0]), r"label 2 is 3\.1"),
            (lambda f: f["test"].update(regression_labels=[0, 0, float("nan"), 0]), "label 2 is nan"),
            (lambda f: f["test"].update(regression_labels=[]), "it has no clips"),
            (lambda f: f["test"].update(regression_labels=[0, "x", 0, 0]), "regression_labels is no array"),
            (lambda f: f["test"].update(id=["a"]), "id must be 4 strings"),
            (lambda f: f["test"].update(id=np.zeros((4, 2))), "id must be 4 strings"),
            (lambda f: f["test"].update(raw_text=["a", "b", None, "d"]), "item 2 is NoneType"),
            (lambda f: f["test"].update(raw_text=["x" * 10**6] * 4), "more text than the file has bytes"),
            (lambda f: f["test"].update(text_bert=np.zeros((4, 2, 50))), r"text_bert has the shape \(4, 2, 50\)"),
            (lambda f: f["test"].update(text_bert=np.zeros((4, 3, 50))), "with a token in each clip"),
            (lambda f: f["test"].update(text_bert=np.full((4, 3, 50), 2)), "must be of 0 and 1"),
            (lambda f: f["test"].update(text_bert=np.full((4, 3, 50), np.nan)), "must be of 0 and 1"),
            (lambda f: f["test"]["text_bert"].__setitem__((0, 0, 0), 0.5), "no token ids"),
            (lambda f: f["test"]["text_bert"].__setitem__((0, 0, 0), -1), "no token ids"),
            (lambda f: f["test"]["text_bert"].__setitem__((0, 0, 0), 2**40), "no token ids"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, change, message):
        made = content()
        change(made)
        path = write(tmp_path / "a.pkl", made)
        with pytest.raises(InputError, match=message) as caught:
            read_mmsa(path)
        assert str(path) in str(caught.value)
        result = run(path, "-o", tmp_path / "a.npz")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert not (tmp_path / "a.npz").exists()

    def test_a_pickle_that_is_no_dict_or_no_data(self, tmp_path):
        with pytest.raises(InputError, match="holds list"):
            read_mmsa(write(tmp_path / "a.pkl", [1]))

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'canary'}",)

        made = content()
        made["train"]["annotations"] = np.array([Evil()] * 12, object)
        with pytest.raises(InputError, match="system"):
            read_mmsa(write(tmp_path / "a.pkl", made))
        assert not (tmp_path / "canary").exists()


class TestStreams:
    def test_the_majority_decides(self):
        rows = [np.ones((3, 2), np.float32), np.ones((4, 2), np.float32), np.ones((6, 2), np.float32)]
        array = padded(rows, 6, front=True)
        array[1] = padded(rows, 6, front=False)[1]  # one clip begins with silence
        clips, report = read_streams([array], None)
        assert (report.padding, report.front_votes, report.end_votes) == ("end", 1, 1)  # a draw: most files are so
        clips, report = read_streams([array, padded(rows[:1], 6, front=True)], None)
        assert (report.padding, report.front_votes, report.end_votes) == ("front", 2, 1)
        assert [[len(clip) for clip in split] for split in clips] == [[3, 6, 6], [3]]

    def test_zeros_inside_a_clip_stay(self):
        row = np.array([[1, 0], [0, 0], [0, 2]], np.float32)
        clips, _ = read_streams([padded([row], 5, front=True)], None)
        assert np.array_equal(clips[0][0], row)

    def test_no_padding_and_nothing_but_padding(self):
        array = np.ones((3, 4, 2), np.float32)
        array[1] = 0
        clips, report = read_streams([array], None)
        assert (report.padding, report.empty, report.longest) == ("none", 1, 4)
        assert [clip.shape for clip in clips[0]] == [(4, 2), (0, 2), (4, 2)]

    def test_a_declared_length_is_believed(self):
        array = padded([np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)], 6, front=False)
        clips, report = read_streams([array], [np.array([4, 2])])
        assert [len(clip) for clip in clips[0]] == [4, 2]  # a silent step at the end belongs to the clip
        assert (report.padding, report.outside, report.lengths) == ("end", 1, "declared")

    def test_only_infinities(self):
        clips, report = read_streams([np.full((1, 2, 3), -np.inf)], None)
        assert (len(clips[0][0]), report.minus_inf, report.empty) == (0, 6, 1)


class TestFeatureFile:
    def test_round_trip_and_numpy_reads_it_without_pickle(self, tmp_path):
        file = read_mmsa(write(tmp_path / "a.pkl", content(front=("audio",))))
        file.sets["test"].audio[1] = np.zeros((0, 5), np.float32)
        save_features(tmp_path / "a.npz", file.sets, {"note": "ü"})
        for split, clips in file.sets.items():
            assert equal(load_features(tmp_path / "a.npz", split), clips)
        assert read_header(tmp_path / "a.npz") == {
            "schema": "psamf-edge-features/1", "splits": {"train": 12, "valid": 5, "test": 4}, "note": "ü"
        }  # fmt: skip
        with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
            assert np.array_equal(arrays["valid.labels"], file.sets["valid"].labels)
            assert arrays["valid.audio"].shape == (sum(map(len, file.sets["valid"].audio)), 5)

    def test_the_same_sets_make_the_same_file(self, tmp_path):
        for name in ("a", "b"):
            save_features(tmp_path / name, read_mmsa(write(tmp_path / "a.pkl", content())).sets, {})
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content())).sets
        (tmp_path / "a.npz").write_text("old")
        sets["test"].audio[0] = "no array"
        with pytest.raises(AttributeError):
            save_features(tmp_path / "a.npz", sets, {})
        assert (tmp_path / "a.npz").read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.pkl"]

    def test_what_is_not_there(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content())).sets
        save_features(tmp_path / "a.npz", {"train": sets["train"]}, {})
        with pytest.raises(UsageError, match="no split 'test'; it has train"):
            load_features(tmp_path / "a.npz", "test")
        with pytest.raises(InputError, match="No such file"):
            load_features(tmp_path / "b.npz", "test")
        with pytest.raises(InputError, match=r"is no \.npz"):
            read_header(tmp_path / "a.pkl")
        np.savez(tmp_path / "c.npz", x=np.zeros(2))
        with pytest.raises(InputError, match="lacks header"):
            read_header(tmp_path / "c.npz")

    def test_damage(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content())).sets
        save_features(tmp_path / "a.npz", sets, {})
        whole = (tmp_path / "a.npz").read_bytes()
        path, found = tmp_path / "b.npz", 0
        for at in range(0, len(whole), 101):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                for split, clips in sets.items():
                    assert equal(load_features(path, split), clips)
            except InputError:
                found += 1
        assert found > 50  # the rest are places that say the same twice, which a reader need not look at
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="cut short"):
            read_header(path)

    @pytest.mark.parametrize(
        ("member", "array", "message"),
        [
            ("header", {"schema": "other"}, "schema"),
            ("header", [1], "schema"),
            ("header", {"schema": "psamf-edge-features/1", "splits": {"dev": 1}}, "other splits"),
            ("header", {"schema": "psamf-edge-features/1"}, "other splits"),
            ("header", {"schema": "psamf-edge-features/1", "splits": {}}, "or none"),
            ("header", {"schema": "psamf-edge-features/1", "splits": {"train": 0}}, "a split without clips"),
            ("header", {"schema": "psamf-edge-features/1", "splits": {"train": [12]}}, "a split without clips"),
            ("train.strings", ["a"] * 12, "no ids and texts in train.strings"),
            ("train.strings", {"ids": 12, "raw_text": ["a"] * 12}, "no ids and texts"),
            ("train.strings", {"ids": ["a"] * 12, "raw_text": [1] * 12}, "no ids and texts"),
            ("train.labels", np.zeros(11, np.float32), "has not 12 of everything"),
            ("train.labels", np.zeros(12, np.float64), "not what belongs"),
            ("train.labels", np.full(12, np.nan, np.float32), "not finite"),
            ("train.labels", np.zeros((12, 1), np.float32), "not what belongs"),
            ("train.audio_lengths", np.full(12, 1, np.int32), "do not add up"),
            ("train.audio_lengths", np.full(12, -1, np.int32), "do not add up"),
            ("train.text_mask", np.zeros((12, 3), np.uint8), "has not 12 of everything"),
            ("train.strings", np.zeros(3, np.uint8), "damaged in train.strings"),
            ("train.audio", np.array([os.system], object), "damaged in train.audio"),
        ],
    )
    def test_members_that_do_not_belong(self, tmp_path, member, array, message):
        save_features(tmp_path / "a.npz", read_mmsa(write(tmp_path / "a.pkl", content())).sets, {})
        if not isinstance(array, np.ndarray):
            array = np.frombuffer(json.dumps(array).encode(), np.uint8)
        with (
            zipfile.ZipFile(tmp_path / "a.npz") as old,
            zipfile.ZipFile(tmp_path / "b.npz", "w") as new,
        ):
            for info in old.infolist():
                with new.open(info.filename, "w") as file:
                    if info.filename == f"{member}.npy" and array.dtype == object:
                        file.write(
                            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128)
                        )
                    elif info.filename == f"{member}.npy":
                        np.save(file, array)
                    else:
                        file.write(old.read(info))
        with pytest.raises(InputError, match=message):
            load_features(tmp_path / "b.npz", "train")

    @pytest.mark.parametrize(
        "layout",
        [
            "{'descr': '|u1', 'fortran_order': False, 'shape': (3,",
            "{'descr': '|u1', 1: False, 'shape': (3,), }",
            "  x\n y",
        ],
    )
    def test_a_header_that_is_no_python(self, tmp_path, layout):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("header.npy", b"\x93NUMPY\x01\x00\x76\x00" + layout.encode().ljust(118) + b"[1]")
        with pytest.raises(InputError, match="damaged in header"):
            read_header(tmp_path / "a.npz")

    def test_compressed_members_are_refused(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", header=np.zeros(10**6, np.uint8))
        with pytest.raises(InputError, match="not written by psamf-edge"):
            read_header(tmp_path / "a.npz")

    def test_shapes_that_lie(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("header.npy", "w") as file:
            layout = {"descr": "|u1", "fortran_order": False, "shape": (2**60,)}
            np.lib.format.write_array_header_1_0(file, layout)
        with pytest.raises(InputError, match="damaged in header"):
            read_header(tmp_path / "a.npz")


class TestBackToMmsa:
    def test_sizes_that_differ_between_splits(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content())).sets
        sets["test"].audio[:] = [np.zeros((1, 6), np.float32) for _ in sets["test"].audio]
        with pytest.raises(InputError, match=r"audio has not the same size in all splits: \[5, 6\]"):
            write_mmsa(tmp_path / "b.pkl", sets)
        assert not (tmp_path / "b.pkl").exists()

    def test_mmsa_loads_what_we_write(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content(front=("audio", "vision")))).sets
        sets["test"].audio[1] = np.zeros((0, 5), np.float32)
        write_mmsa(tmp_path / "b.pkl", sets)
        for split, clips in sets.items():
            loader = MmsaLoader(tmp_path / "b.pkl", split)
            assert len(loader) == len(clips)
            assert loader.sequence_lengths == (50, 9, 7)
            assert loader.feature_sizes == (50, 5, 20)
            for index in range(len(clips)):
                item = loader[index]
                assert (item["raw_text"], item["id"]) == (clips.raw_text[index], clips.ids[index])
                assert isinstance(item["raw_text"], str)
                assert item["label"].tolist() == [clips.labels[index]]
                assert np.array_equal(item["text"][0], clips.text_ids[index])
                assert np.array_equal(item["text"][1], clips.text_mask[index])
                assert not item["text"][2].any()
                for stream in STEPS:
                    rows = getattr(clips, stream)[index]
                    assert item[f"{stream}_lengths"] == max(1, len(rows))
                    assert np.array_equal(item[stream][: len(rows)], rows)
                    assert not item[stream][len(rows) :].any()
        raw = pickle.loads((tmp_path / "b.pkl").read_bytes())["test"]
        assert raw["classification_labels"].tolist() == (np.sign(sets["test"].labels) + 1).tolist()
        assert raw["annotations"] == ["Negative" if label < 0 else "Positive" for label in sets["test"].labels]

    def test_there_and_back_again(self, tmp_path):
        sets = read_mmsa(write(tmp_path / "a.pkl", content(front=("audio",)))).sets
        sets["test"].vision[0] = np.zeros((0, 20), np.float32)
        write_mmsa(tmp_path / "b.pkl", sets)
        again = read_mmsa(tmp_path / "b.pkl")
        assert all(equal(again.sets[split], clips) for split, clips in sets.items())
        assert again.report["vision"]["empty"] == 1


class TestCommand:
    def test_pickle_to_npz_and_back(self, tmp_path):
        made = content(front=("audio",))
        made["train"]["audio"][0, -1, 0] = -np.inf
        source = write(tmp_path / "a.pkl", made)
        result = run(source, "-o", tmp_path / "a.npz")
        assert (result.exit_code, result.stderr) == (0, "")
        report = json.loads(result.stdout)
        assert report["splits"] == {"train": 12, "valid": 5, "test": 4}
        assert (report["audio"]["padding"], report["audio"]["minus_inf"]) == ("front", 1)
        assert read_header(tmp_path / "a.npz")["audio"] == report["audio"]
        result = run(tmp_path / "a.npz", "-o", tmp_path / "b.pkl")
        assert (result.exit_code, json.loads(result.stdout)) == (0, {"splits": report["splits"]})
        again = read_mmsa(tmp_path / "b.pkl")
        assert all(equal(again.sets[split], clips) for split, clips in read_mmsa(source).sets.items())

    def test_values_past_the_declared_length_are_counted(self, tmp_path):
        made = content()
        made["train"]["audio_lengths"] = [max(1, length - 1) for length in made["train"]["audio_lengths"]]
        longer = sum(row.any(axis=1).sum() > 1 for row in made["train"]["audio"])
        result = run(write(tmp_path / "a.pkl", made), "-o", tmp_path / "a.npz")
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout)["audio"]["outside"] == read_header(tmp_path / "a.npz")["audio"]["outside"]
        assert json.loads(result.stdout)["audio"]["outside"] == longer > 0

    def test_mmsa_wants_three_splits(self, tmp_path):
        run(write(tmp_path / "a.pkl", {"train": content()["train"]}), "-o", tmp_path / "a.npz")
        result = run(tmp_path / "a.npz", "-o", tmp_path / "b.pkl")
        assert result.exit_code == 0
        assert "lacks valid, test" in result.stderr

    @pytest.mark.parametrize(
        ("source", "out", "more", "message"),
        [
            ("a.pkl", "a.txt", (), r"must end in \.npz"),
            ("a.pkl", "b.pkl", (), r"is a \.pkl already"),
            ("a.pkl", "a.npz", ("--clips", "."), "for label files, --clips: a feature file has no clips"),
            ("a.pkl", "a.npz", ("--jobs", "1", "--limit", "seconds=9"), "for label files, --jobs, --limit: a feature"),
            ("a.pkl", "no/a.npz", (), "There is no folder"),
            ("b.pkl", "a.npz", (), "There is no file"),
            (".", "a.npz", (), "There is no file"),
        ],
    )
    def test_wrong_use(self, tmp_path, source, out, more, message):
        write(tmp_path / "a.pkl", content())
        result = run(tmp_path / source, "-o", tmp_path / out, *more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert re.search(message, result.stderr)
