"""`prepare`: odd videos are reported and the rest done, kills lose little, shards merge, faults are told."""

import dataclasses
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from revision_jax import prepare, verb
from revision_jax.data.annotations.gaps import load_gaps
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders.parts import Parts
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video import many_videos
from revision_jax.data.video.scaling import Square

SIZE, FPS = 32, 1.0
TEN_HOURS = 36_000


def picture(number: int) -> np.ndarray:
    """A frame that shows its number: 16 cells, black or white, that scaling and coding leave readable."""
    bits = (number >> np.arange(16)) & 1
    return np.repeat(np.kron(bits.reshape(4, 4), np.ones((8, 8)))[..., None] * 200 + 20, 3, axis=2).astype(np.uint8)


def read_number(pixels: np.ndarray) -> int:
    cells = pixels.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3, 4))
    return int(((cells.reshape(-1) > 120) << np.arange(16)).sum())


def write(path, times, *, codec="mpeg4", rotation=None, base_rate=100):
    """A video whose frame number k is shown from times[k] on (seconds)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=base_rate, options={"g": "50"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, base_rate)
        stream.bit_rate = 2_000_000
        if rotation:
            stream.metadata["rotate"] = str(rotation)
        for number, time in enumerate(times):
            pixels = picture(number)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * base_rate), Fraction(1, base_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def rotate_by_metadata(source, target):
    """Copies a video with a display matrix that turns it by a quarter."""
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    one, zero = (0x10000).to_bytes(4, "big"), bytes(4)
    minus = (-0x10000).to_bytes(4, "big", signed=True)
    matrix = zero + one + zero + minus + zero + zero + zero + zero + (0x40000000).to_bytes(4, "big")
    content[place : place + 36] = matrix
    target.write_bytes(content)


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """20 files: 17 good ones, among them a variable frame rate, a rotated one and one of ten hours; 3 bad ones."""
    folder = tmp_path_factory.mktemp("odd")
    for number in range(14):
        write(folder / f"plain{number:02d}.mp4", np.arange(0, 20 + number, 0.5))
    rng = np.random.default_rng(0)
    write(folder / "variable.mkv", np.cumsum(np.r_[0, rng.uniform(0.1, 1.9, 60)]), base_rate=1000)
    rotate_by_metadata(folder / "plain03.mp4", folder / "rotated.mp4")
    write(folder / "ten_hours.mkv", np.arange(0, TEN_HOURS, 4.0), base_rate=1)
    whole = (folder / "plain05.mp4").read_bytes()
    write(folder / "long.mkv", np.arange(0, 120, 0.5))
    (folder / "truncated.mkv").write_bytes(
        (folder / "long.mkv").read_bytes()[: (folder / "long.mkv").stat().st_size // 2]
    )
    (folder / "long.mkv").unlink()
    with av.open(str(folder / "zero_frames.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
    if not (folder / "zero_frames.mp4").exists() or not (folder / "zero_frames.mp4").stat().st_size:
        (folder / "zero_frames.mp4").write_bytes(whole[:40])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "notes.txt").write_text("not a video")
    assert len([path for path in folder.iterdir() if path.suffix != ".txt"]) == 20
    return folder


class NumberReader:
    """An encoder whose feature is the number that a frame shows: proves which frame was sampled when."""

    name, fingerprint, width, fps, square = "numbers", "n" * 64, 8, FPS, Square(SIZE)

    def __init__(self, *_, batch=16, **__):
        self.batch, self.seen = batch, 0

    def encode_batch(self, frames):
        self.seen += len(frames)
        values = np.array([read_number(frame) for frame in frames])
        turned = np.array([read_number(np.rot90(frame, 1)) for frame in frames])
        # float16 holds whole numbers up to 2,048: digits to the base 256.
        columns = [values % 256, values // 256, turned % 256, turned // 256]
        return np.stack([*columns, *np.zeros((4, len(frames)))], axis=1).astype(np.float16)


@pytest.fixture
def numbers(monkeypatch):
    monkeypatch.setattr("revision_jax.preparation.inputs.Extractor", NumberReader)


def arguments(folder, out, *more, split="test"):
    return ["folder", "--videos", str(folder), "--out", str(out), "--split", split, *more]


def content(directory):
    store = FeatureStore(directory)
    plain = dataclasses.replace(store.manifest, shards=())
    features = {video_id: store.read_all(video_id).tobytes() for video_id in store.video_ids}
    return plain, features, load_gaps(directory / "gaps.jsonl")


def files_of(directory):
    """Path -> bytes of all files of a data set."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(odd_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("revision_jax.preparation.inputs.Extractor", NumberReader)
        assert prepare.main(arguments(odd_folder, out)) == 1  # there are gaps
    return out / "test"


def test_bad_videos_are_reported_and_the_rest_is_done(prepared, odd_folder, numbers, tmp_path, capsys):
    assert {gap.video_id: gap.kind for gap in load_gaps(prepared / "gaps.jsonl")} == {
        name: "video unreadable" for name in ("truncated", "zero_frames", "sound")
    }
    store = FeatureStore(prepared)
    assert len(store.video_ids) == 17
    assert store.durations["ten_hours"] == pytest.approx(TEN_HOURS, abs=4.1)
    capsys.readouterr()
    assert prepare.main(arguments(odd_folder, prepared.parent)) == 1  # again: nothing to do, the table stands
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("truncated", "zero_frames", "sound", "3 video unreadable"))


def test_frame_times_are_right_to_half_a_sampling_interval(prepared):
    store = FeatureStore(prepared)
    rng = np.random.default_rng(0)
    times = {f"plain{n:02d}": np.arange(0, 20 + n, 0.5) for n in range(14)}
    times |= {"variable": np.cumsum(np.r_[0, rng.uniform(0.1, 1.9, 60)]), "ten_hours": np.arange(0, TEN_HOURS, 4.0)}
    times["rotated"] = times["plain03"]
    for video_id, shown in times.items():
        features = store.read_all(video_id).astype(int)
        column = 2 if video_id == "rotated" else 0
        found = features[:, column] + 256 * features[:, column + 1]
        samples = np.arange(len(features)) / FPS
        starts, ends = shown[found], np.append(shown[1:], np.inf)[found]
        # The frame on screen at the sample time: it began before and its successor comes after.
        assert (starts <= samples + 0.01).all() and (ends >= samples - 0.01).all(), video_id
        assert abs(len(features) / FPS - store.durations[video_id]) <= 1 / FPS


def test_shards_and_merge_equal_one_run(prepared, odd_folder, numbers, tmp_path):
    codes = [prepare.main(arguments(odd_folder, tmp_path, "--shard", f"{index}/3")) for index in range(3)]
    assert max(codes) == 1
    assert prepare.main(["merge", str(tmp_path / "test")]) == 1
    assert content(tmp_path / "test") == content(prepared)


def test_a_kill_loses_at_most_one_video(prepared, odd_folder, numbers, tmp_path, monkeypatch):
    started, saved = [], []
    read, save = many_videos.video.read_frames, Parts.save

    def dying(self, video_id, video):
        if len(saved) == 9:
            raise KeyboardInterrupt
        saved.append(video_id)
        save(self, video_id, video)

    monkeypatch.setattr(
        many_videos.video, "read_frames", lambda path, *a, **k: started.append(path.stem) or read(path, *a, **k)
    )
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "save", dying)
        assert prepare.main(arguments(odd_folder, tmp_path)) == verb.INTERRUPTED
    assert not (tmp_path / "test/manifest.json").exists()
    kept = {path.stem for path in (tmp_path / "test/parts").glob("*.npz")}
    assert kept == set(saved) and len(kept) == 9
    started.clear()
    prepare.main(arguments(odd_folder, tmp_path))
    assert not kept & set(started) and len(started) == 20 - 9
    assert files_of(tmp_path / "test") == files_of(prepared)


def test_the_same_features_are_the_same_bytes(prepared):
    """In any process: fields stand in the order of their names, which protobuf leaves to chance."""
    (shard,) = prepared.glob("features/*/*/*.array_record*")
    reader = ArrayRecordReader(str(shard))
    for record in reader.read_all():
        again = tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
        assert record == again and record.index(b"chunk") < record.index(b"features") < record.index(b"video_id")


def test_several_decoders_give_the_same(prepared, odd_folder, numbers, tmp_path):
    prepare.main(arguments(odd_folder, tmp_path, "--decoders", "3"))
    assert content(tmp_path / "test") == content(prepared)


def test_batches_are_filled_across_videos(odd_folder):
    reader = NumberReader(batch=64)
    files = [(f"plain{n:02d}", odd_folder / f"plain{n:02d}.mp4") for n in range(14)]
    found = dict(many_videos.encode_videos(reader, files))
    frames = sum(len(video.features) for video in found.values())
    assert frames == sum(20 + n for n in range(14)) and reader.seen == -(-frames // 64) * 64


def test_a_video_on_which_the_encoder_fails_is_a_gap(odd_folder):
    class Broken(NumberReader):
        def encode_batch(self, frames):
            return super().encode_batch(frames) * np.float16(np.nan)

    files = [("a", odd_folder / "plain00.mp4"), ("b", odd_folder / "plain01.mp4")]
    found = dict(many_videos.encode_videos(Broken(), files))
    assert {gap.kind for gap in found.values()} == {"not finite"}


def test_a_dry_run_lists_the_gaps_and_writes_nothing(odd_folder, tmp_path, capsys):
    queries = tmp_path / "queries.jsonl"
    row = {"query_id": "q", "video_id": "plain00", "sentence": "x", "moments": [[1, 90]]}
    queries.write_text(json.dumps(row) + "\n" + json.dumps(row | {"query_id": "r", "video_id": "nowhere"}))
    more = ("--annotations", str(queries), "--dry-run")
    assert prepare.main(arguments(odd_folder, tmp_path / "out", *more)) == 1
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("sound", "zero_frames", "nowhere", "video missing", "outside video"))
    assert not (tmp_path / "out").exists()


def test_own_videos_with_queries_can_be_checked_and_shown(odd_folder, tmp_path, numbers, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for n in range(3):
        (folder / f"plain{n:02d}.mp4").symlink_to(odd_folder / f"plain{n:02d}.mp4")
    rows = [
        {"query_id": n, "video_id": f"plain{n % 3:02d}", "sentence": f"<b>event</b> {n}", "moments": [[2 + n, 5 + n]]}
        for n in range(6)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    assert prepare.main(arguments(folder, out, "--annotations", str(tmp_path / "q.jsonl"))) == 0
    store = FeatureStore(out / "test")
    assert len(load_queries(out / "test/queries.jsonl", store.durations)) == 6
    assert prepare.main(["check", str(out)]) == 0
    assert json.loads((out / "test/check.json").read_text())["gaps"] == []
    assert prepare.main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 3 and "A quick check found none" in page
    assert "&lt;b&gt;event&lt;/b&gt;" in page and "<b>event" not in page
    assert "3, 0:01:0" in page and "median event</th><td>3.0 s" in page
    shard = next(out.rglob("*array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    assert prepare.main(["check", str(out), "--fast"]) == 1
    assert "damaged" in capsys.readouterr().out


def test_a_full_disk_is_told_and_the_same_command_continues(odd_folder, tmp_path, numbers, capsys):
    parts = tmp_path / "test/parts"
    parts.mkdir(parents=True)
    (parts / "plain04.tmp").symlink_to("/dev/full")  # every write there fails as on a full disk
    assert prepare.main(arguments(odd_folder, tmp_path)) == 2
    error = capsys.readouterr().err
    assert "no space left on the disk of" in error and "MiB are free" in error and "the same command goes on" in error
    assert not (tmp_path / "test/manifest.json").exists()
    kept = {path.stem for path in parts.glob("*.npz")}
    assert "plain03" in kept and "plain04" not in kept
    (parts / "plain04.tmp").unlink()
    assert prepare.main(arguments(odd_folder, tmp_path)) == 1
    assert len(FeatureStore(tmp_path / "test").video_ids) == 17


def test_bad_arguments_are_one_line(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{}")
    mad = ["mad", "--annotations", str(tmp_path / "a.json"), "--out", str(tmp_path), "--split", "train"]
    assert prepare.main([*mad, "--features", str(tmp_path / "none.h5")]) == 2
    assert "no such file; expected a file .h5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main([*mad, "--features", "x", "--shard", "3/3"])
    assert "expected I/N with I from 0 to N - 1" in capsys.readouterr().err
    assert prepare.main(["check", str(tmp_path)]) == 2
    assert prepare.main(["merge", str(tmp_path)]) == 2


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("mad", "cone", "vidchapters", "msrvtt", "folder", "merge", "check", "report"))
