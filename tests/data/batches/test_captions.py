"""Captions: what is on screen in a Shapes frame; LCS-558K's layout, its images encoded once."""

import json
import types

import av
import numpy as np
import pytest

from revision_jax.data.batches.captions import Captions, LoadCaption, caption_stream, lcs_captions
from revision_jax.data.batches.streams import Batching, join
from revision_jax.data.builders.shapes_world import make_video
from revision_jax.data.video.scaling import Square
from revision_jax.prompts import PromptEncoder, PromptTemplate

LETTERS = types.SimpleNamespace(  # one token a letter
    bos_token_id=1, eos_token_id=2, pad_token_id=0, encode=lambda text, **_: [ord(letter) for letter in text]
)
PROMPTS = PromptEncoder(LETTERS, PromptTemplate(""), 96)


def test_a_shapes_frame_is_described_by_what_is_on_screen():
    video = make_video("train", 0, duration_s=120.0)
    captions = video.captions(np.arange(120.0))
    assert "nothing" in captions
    for event, start, end in video.events:
        assert f"{event.color} {event.shape} at the" in captions[int((start + end) / 2)]
    moved = next((e, s, t) for e, s, t in make_video("train", 1).events if e.action == "left")
    first, last = make_video("train", 1).captions(np.array([moved[1] + 0.1, moved[2] - 0.1]))
    assert "right" in first and "left" in last


def test_batches_hold_single_frames_and_their_captions():
    captions = Captions(["a dog", "a cat", "nothing"], lambda i: np.full(4, i, np.float16), lambda i: f"image {i}", [])
    pipeline = join([[caption_stream(captions, PROMPTS, Batching(2, seed=0))]], read_threads=1, prefetch=1)
    batch = next(iter(pipeline.batches))
    assert batch["video"].shape == (2, 1, 4)
    for row in range(2):
        text = captions.texts[int(batch["video"][row, 0, 0])]
        answer = "".join(chr(token) for token in batch["tokens"][row][batch["loss_mask"][row]][:-1])
        assert answer == text
        assert pipeline.describe_record(int(batch["record_id"][row])).endswith(f": {text}")
    with pytest.raises(ValueError, match="there are 3 captions; expected at least a batch of 4"):
        caption_stream(captions, PROMPTS, Batching(4, seed=0))


def write_picture(path, value):
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("mjpeg" if path.suffix == ".jpg" else "png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 40, 24, "yuvj420p" if path.suffix == ".jpg" else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.full((24, 40, 3), value, np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))


def test_lcs_is_read_as_it_is_downloaded_and_encoded_once(tmp_path):
    rows = []
    for number, name in enumerate(["00000/a.jpg", "00001/b.png"]):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        write_picture(tmp_path / "images" / name, 60 + 100 * number)
        talk = [{"from": "human", "value": "Render this.\n<image>"}, {"from": "gpt", "value": f" picture\n{number} "}]
        rows.append({"id": str(number), "image": name, "conversations": talk})
    (tmp_path / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(rows))
    calls = []

    def encode_frames(frames, name):
        calls.append(name)
        return np.stack([np.full(4, batch.mean(), np.float16) for batch in frames])

    extractor = types.SimpleNamespace(encode_frames=encode_frames, square=Square(16), fingerprint="0123456789")
    for _ in range(2):
        captions = lcs_captions(tmp_path, extractor)
        assert captions.texts == ["picture 0", "picture 1"] and captions.name(1) == "00001/b.png"
        np.testing.assert_allclose([captions.read(i)[0] for i in range(2)], [60, 160], atol=3)
    assert len(calls) == 1
    load = LoadCaption(captions, PROMPTS)
    assert load((0, 1))["video"].shape == (1, 4)
