"""What a frame rate that is a little wrong does to features that somebody else extracted.

Frame i is taken for the one at i / fps seconds, so that an error grows up to the end of a video: 4.99 for 5 frames a
second is 14 s after two hours, within the tolerance for annotated lengths.
"""

from revision_jax.data.store.manifest import Manifest

ASSUMED = 0.002  # an error that nobody would notice, as a share of the rate


def rate_note(manifest: Manifest, *, annotated: bool) -> str | None:
    """A line to be shown, or None where the frames fit.

    Args:
      annotated: whether the manifest's lengths are annotated ones; without them nothing bears the rate out.
    """
    if "features" not in manifest.source:  # encoded here, on the videos' own clock
        return None
    return _misfit(manifest) if annotated else _unproven(manifest)


def _rest_s(fps: float) -> float:
    """Seconds that say nothing: lengths are rounded, and the last frame stands for 1 / fps."""
    return 1.0 + 1.0 / fps


def _misfit(manifest: Manifest) -> str | None:
    fps, videos = manifest.fps, manifest.videos
    off = {name: info.duration_s - info.num_frames / fps for name, info in videos.items()}
    off = {name: seconds for name, seconds in off.items() if abs(seconds) > _rest_s(fps)}
    if not off:
        return None
    name = max(off, key=lambda name: abs(off[name]))
    frames, lasts_s = videos[name].num_frames, videos[name].duration_s
    return (
        f"{len(off)} of {len(videos)} videos are not as long as their frames at {fps:g} a second: events near the end "
        f"of {name} are {abs(off[name]):.1f} s off. Its {frames} frames would fill its {lasts_s:.1f} s at "
        f"{frames / lasts_s:.4g} a second (--fps)"
    )


def _unproven(manifest: Manifest) -> str | None:
    fps = manifest.fps
    name, frames = max(((name, info.num_frames) for name, info in manifest.videos.items()), key=lambda item: item[1])
    off = ASSUMED * frames / fps
    if off <= _rest_s(fps):
        return None
    return (
        f"no length is annotated that could bear out {fps:g} frames a second: were it {fps * (1 - ASSUMED):.4g}, "
        f"events near the end of {name} ({frames / fps:.0f} s) would be {off:.1f} s off"
    )
