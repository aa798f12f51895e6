"""The store: what is read equals what was written, only touched chunks are read, every damage is named."""

import json
import pickle
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python import array_record_module

from revision_jax.data.store.features import FeatureStore, Manifest, allow_open_files


@pytest.fixture(scope="module")
def stored(make_store, tmp_path_factory):
    directory, arrays = make_store(tmp_path_factory.mktemp("store") / "data")
    return directory, arrays


@pytest.fixture
def copied(stored, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(stored[0], tmp_path / "copy"), stored[1]


def shard_path(directory):
    return directory / Manifest.load(directory).shards[0].path


def test_reads_what_was_written(stored):
    directory, arrays = stored
    store = FeatureStore(directory)
    assert store.video_ids == list(arrays)
    assert store.durations == {"v0": 100.0, "v1": 32.0, "v2": 16.5}
    for video_id, array in arrays.items():
        np.testing.assert_array_equal(store.read_all(video_id), array)
        frames = np.random.default_rng(0).integers(0, len(array), (3, 7))  # any order, any shape
        read = store.read(video_id, frames)
        assert read.dtype == np.float16
        np.testing.assert_array_equal(read, array[frames])
    assert store.read("v0", np.array([], int)).shape == (0, 8)


def test_only_touched_chunks_are_read(stored, monkeypatch):
    store = FeatureStore(stored[0])
    asked = []
    reader = store._readers[0]

    class Counting:
        def read(self, start, stop):
            asked.append((start, stop))
            return reader.read(start, stop)

    store._readers[0] = Counting()
    store.read("v0", np.array([70, 100]))
    store.read("v0", np.array([0, 199, 63]))  # chunks 0 and 3, not those between
    store.read("v2", np.array([0]))
    assert asked == [(1, 2), (0, 1), (3, 4), (5, 6)]


def test_bytes_read_from_disk_are_those_of_the_span(make_store, tmp_path):
    width, frames = 256, 64 * 40
    directory, _ = make_store(tmp_path / "big", lengths=(frames,), width=width)
    store = FeatureStore(directory)

    def bytes_read():
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    store.read("v0", np.array([0]))
    before = bytes_read()
    for start in range(0, frames - 640, 64):
        store.read("v0", np.linspace(start, start + 639, 250).astype(int))
    windows = (frames - 640) // 64
    assert (bytes_read() - before) / (windows * 640 * width * 2) < 1.05


def test_threads_and_pickle(stored):
    directory, arrays = stored
    store = pickle.loads(pickle.dumps(FeatureStore(directory)))
    frames = [np.random.default_rng(i).integers(0, 200, 50) for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for picked, read in zip(frames, pool.map(lambda f: store.read("v0", f), frames), strict=True):
            np.testing.assert_array_equal(read, arrays["v0"][picked])


def test_bad_requests(stored):
    store = FeatureStore(stored[0])
    with pytest.raises(IndexError, match=r"'v2' has frames 0\.\.32; found 3\.\.33"):
        store.read("v2", np.array([3, 33]))
    with pytest.raises(IndexError, match=r"found -1"):
        store.read("v2", np.array([-1]))
    with pytest.raises(KeyError, match="no video 'x' among its 3"):
        store.read("x", np.array([0]))


def test_other_encoder_or_rate_is_refused(stored):
    store = FeatureStore(stored[0])
    store.check_encoder("0" * 64, 2.0)
    for fingerprint, fps in (("1" * 64, 2.0), ("0" * 64, 5.0)):
        with pytest.raises(ValueError, match="Extract them again"):
            store.check_encoder(fingerprint, fps)


def test_missing_manifest_and_shard(copied):
    directory, _ = copied
    shard_path(directory).unlink()
    with pytest.raises(FileNotFoundError, match="shard is missing"):
        FeatureStore(directory)
    (directory / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="no manifest"):
        FeatureStore(directory)


def test_truncated_shard_is_found_at_opening(copied):
    path = shard_path(copied[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short or changed"):
        FeatureStore(copied[0])


def test_shard_of_the_right_size_that_is_no_record_file(copied):
    path = shard_path(copied[0])
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match="not the ArrayRecord file"):
        FeatureStore(copied[0])


def test_a_flipped_byte_is_found_when_it_is_read(copied):
    directory, arrays = copied
    path = shard_path(directory)
    data = bytearray(path.read_bytes())
    place = data.find(arrays["v0"][100].tobytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    store = FeatureStore(directory)
    with pytest.raises(ValueError, match="damaged"):
        store.read("v0", np.array([100]))
    np.testing.assert_array_equal(store.read_all("v2"), arrays["v2"])


def rewrite(directory, change):
    """Writes the shard anew with `change(number, record)` records of the right checksums."""
    manifest = Manifest.load(directory)
    path = directory / manifest.shards[0].path
    reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
    records = reader.read(0, manifest.shards[0].records)
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for number, record in enumerate(records):
        writer.write(change(number, record))
    writer.close()
    edit_manifest(directory, lambda fields: fields["shards"][0].update(bytes=path.stat().st_size))


def edit_manifest(directory, change):
    path = directory / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_not_finite_names_video_and_frame(copied):
    directory, arrays = copied
    value = arrays["v0"][130, 3].tobytes()
    row = arrays["v0"][130].tobytes()
    bad_row = row.replace(value, np.float16(np.nan).tobytes(), 1)
    rewrite(directory, lambda number, record: record.replace(row, bad_row))
    store = FeatureStore(directory)
    store.read("v0", np.array([0, 63]))
    with pytest.raises(ValueError, match=r"'v0' are not finite at frame 130 \(65\.00 s\)"):
        store.read("v0", np.array([129]))


def test_changed_values_are_found_by_the_checksum(copied):
    directory, arrays = copied
    row = arrays["v1"][5].tobytes()
    rewrite(directory, lambda number, record: record.replace(row, arrays["v1"][6].tobytes()))
    with pytest.raises(ValueError, match="do not match their checksum"):
        FeatureStore(directory).read_all("v1")


def test_exchanged_records_are_found(copied):
    directory, _ = copied
    reader = array_record_module.ArrayRecordReader(str(shard_path(directory)), "readahead_buffer_size:0")
    records = reader.read(0, 6)
    rewrite(directory, lambda number, record: records[5 - number])
    with pytest.raises(ValueError, match=r"is chunk 0 of 'v2'.*expected chunk 0 of 'v0'"):
        FeatureStore(directory).read("v0", np.array([0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(format=7), "format is 7"),
        (lambda fields: fields.update(dtype="int8"), "dtype is 'int8'"),
        (lambda fields: fields.update(extra=1), "extra"),
        (lambda fields: fields.pop("width"), "width"),
        (lambda fields: fields.update(fps=0), "fps is 0"),
        (lambda fields: fields.update(videos={}), "no videos"),
        (lambda fields: fields["videos"]["v1"].update(first_record=0), "'v1' has 64 frames from record 0"),
        (lambda fields: fields["videos"].pop("v2"), "fill 5 records, its shards hold 6"),
        (lambda fields: fields["shards"][0].update(records=7), "not the ArrayRecord file of 7 records"),
    ],
)
def test_bad_manifests(copied, change, message):
    edit_manifest(copied[0], change)
    with pytest.raises(ValueError, match=message) as error:
        FeatureStore(copied[0])
    assert str(copied[0]) in str(error.value)


def test_wrong_width_in_the_manifest(copied):
    edit_manifest(copied[0], lambda fields: fields.update(width=16))
    with pytest.raises(ValueError, match=r"with 512 values; expected .* 64 x 16"):
        FeatureStore(copied[0]).read("v0", np.array([0]))


def test_as_many_files_as_needed_may_be_open():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        allow_open_files(50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, limits[1])
        allow_open_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
