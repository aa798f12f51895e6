"""The extractor: batches do not matter, one program a tower, the same under a mesh and in transformers."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import transformers

from revision_jax.data.video.extraction import Extractor, rows_on
from revision_jax.data.video.frames import VideoError, read_frames, write_video
from revision_jax.parallel.mesh import make_mesh
from revision_jax.parallel.programs import forget
from revision_jax.prompts import clip_query

FRAMES = np.random.default_rng(0).integers(0, 255, (21, 32, 32, 3), np.uint8)
SENTENCES = ["A red circle moves left.", "a blue circle spins", "red."]


@pytest.fixture(scope="module")
def extractor(clip_dir):
    forget()
    return Extractor(clip_dir, fps=2.0, batch=8)


@pytest.fixture(scope="module")
def torch_clip(torch, clip_dir):
    return transformers.CLIPModel.from_pretrained(clip_dir).eval()


def test_features_equal_transformers(torch, extractor, torch_clip):
    pixels = (FRAMES / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.3])
    with torch.no_grad():
        hidden = torch_clip.vision_model(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
        expected = torch_clip.visual_projection(hidden.pooler_output).numpy()
    features = extractor.encode_frames([FRAMES])
    assert features.dtype == np.float16 and features.shape == (21, 24)
    np.testing.assert_allclose(features, expected, atol=2e-3, rtol=2e-3)  # float16's own rounding


def test_batches_do_not_matter_and_nothing_recompiles(extractor):
    whole = extractor.encode_frames([FRAMES])
    for sizes in ([1] * 21, [5, 16], [20, 1]):
        pieces = np.split(FRAMES, np.cumsum(sizes)[:-1])
        np.testing.assert_array_equal(extractor.encode_frames(iter(pieces)), whole)
    extractor.encode_queries(SENTENCES)
    extractor.encode_queries(SENTENCES * 30)
    assert extractor.compile_count == 2
    assert extractor.encode_frames([]).shape == (0, 24)


def test_sentences_encoded_last_are_not_encoded_again(extractor):
    first, tokens = extractor.encode_queries(SENTENCES), extractor.encode_query_tokens(SENTENCES)
    assert extractor.encode_queries(SENTENCES) is first and not first.flags.writeable
    other = extractor.encode_queries(SENTENCES[::-1])
    np.testing.assert_array_equal(other[::-1], first)
    again = extractor.encode_query_tokens(SENTENCES)
    for one, same in zip(tokens, again, strict=True):
        np.testing.assert_array_equal(one, same)


def test_frames_of_another_size_are_scaled_as_those_of_a_file(extractor, tmp_path):
    big = np.repeat(np.repeat(FRAMES[:4], 2, axis=1), 2, axis=2)
    small = np.abs(extractor.encode_frames([big]).astype(float) - extractor.encode_frames([FRAMES[:4]])).mean()
    assert small < 0.1 * np.abs(extractor.encode_frames([FRAMES[:4]])).mean()


def test_mesh_gives_the_same(clip_dir, extractor):
    forget()
    meshed = Extractor(clip_dir, fps=2.0, batch=8, mesh=make_mesh(-1))
    np.testing.assert_array_equal(meshed.encode_frames([FRAMES]), extractor.encode_frames([FRAMES]))
    np.testing.assert_array_equal(meshed.encode_queries(SENTENCES), extractor.encode_queries(SENTENCES))
    assert meshed.compile_count == 2


def test_video(extractor, tmp_path):
    path = tmp_path / "x.mp4"
    write_video(path, [np.repeat(FRAMES, 2, axis=0)], 4)
    video = extractor.encode_video(path)
    assert video.features.shape == (21, 24) and video.duration_s == 10.5 and video.fps == 2.0
    np.testing.assert_array_equal(video.features, extractor.encode_frames(read_frames(path, 2.0, 32)))
    with pytest.raises(VideoError, match="no such file"):
        extractor.encode_video(tmp_path / "none.mp4")


def test_queries_equal_transformers(torch, extractor, clip_dir, torch_clip):
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip_dir)
    holistic = extractor.encode_queries(SENTENCES)
    features, mask = extractor.encode_query_tokens(SENTENCES)
    assert features.shape == (3, 10, 16) and mask.sum(1).tolist() == [6, 5, 2]
    for i, sentence in enumerate(SENTENCES):
        tokens = torch.tensor([tokenizer.encode(clip_query(sentence))])
        with torch.no_grad():
            output = torch_clip.text_model(tokens)
            expected = torch_clip.text_projection(output.pooler_output)
        np.testing.assert_allclose(holistic[i], expected[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(features[i][mask[i]], output.last_hidden_state[0, 1:-1].numpy(), atol=1e-4)
        assert not features[i][~mask[i]].any()


def test_long_sentences_are_cut_with_a_warning(extractor, caplog):
    holistic = extractor.encode_queries(["a red " * 20])
    assert np.isfinite(holistic).all() and "are cut" in caplog.text
    with pytest.raises(ValueError, match="expected a list"):
        extractor.encode_queries("a red circle")


def test_not_finite_names_video_and_frame(clip_dir):
    broken = Extractor(clip_dir, fps=2.0, batch=8)
    broken._weights = jax.tree.map(lambda w: w * np.float32("inf"), broken._weights)
    with pytest.raises(ValueError, match=r"v7: the encoder .* at frame 0 \(0\.00 s\)"):
        broken.encode_frames([FRAMES], name="v7")


def test_fingerprint_follows_weights_and_normalisation(clip_dir, clip_factory, tmp_path, extractor):
    assert Extractor(clip_dir, fps=1.0, batch=4).fingerprint == extractor.fingerprint
    other = clip_factory(tmp_path / "other", seed=3)
    seen = {extractor.fingerprint, Extractor(other, fps=1.0).fingerprint}
    (other / "preprocessor_config.json").unlink()  # falls back to OpenAI's constants
    seen.add(Extractor(other, fps=1.0).fingerprint)
    assert len(seen) == 3


def test_an_error_in_the_frames_is_raised(extractor):
    def frames():
        yield FRAMES
        raise VideoError("x.mp4", "damage", "a whole file", "Copy it")

    with pytest.raises(VideoError, match="damage"):
        extractor.encode_frames(frames())


def test_sentences_have_the_same_features_in_any_company(extractor, clip_dir):
    texts = [
        f"a {color} {shape} moves" for color in ("red", "blue", "green") for shape in ("ball", "box", "ring", "bar")
    ]
    features, mask = extractor.encode_query_tokens(texts)
    alone = Extractor(clip_dir, 2.0, batch=4)
    alone.forget_pictures()
    assert alone.held_bytes < extractor.held_bytes
    for number, text in enumerate(texts):
        some, inside = alone.encode_query_tokens([text, *texts[: number % 5]])
        np.testing.assert_array_equal(some[0][inside[0]], features[number][mask[number]])
        np.testing.assert_array_equal(
            alone.encode_queries([texts[0], text])[1], extractor.encode_queries(texts)[number]
        )


def test_a_cpu_computes_little_that_fills_up_a_batch(clip_dir, monkeypatch):
    """21 frames, 1 sentence: 128 and 64 rows were computed, half of the time of a question about a short video."""
    extractor, rows = Extractor(clip_dir, fps=2.0), []
    frames, texts = extractor._encode_image, extractor._encode_text
    monkeypatch.setattr(extractor, "_encode_image", lambda weights, x: rows.append(len(x)) or frames(weights, x))
    monkeypatch.setattr(extractor, "_encode_text", lambda weights, x: rows.append(len(x)) or texts(weights, x))
    extractor.encode_frames([FRAMES])
    extractor.encode_queries(["a dog"])
    assert rows == [16, 16, 8] and rows_on(SimpleNamespace(platform="gpu")) == (128, 64)
