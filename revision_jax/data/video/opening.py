"""Opens one video file, and nothing but that file: containers and codecs are a stranger's data.

FFmpeg gets the bytes of the opened file and no way to open another: no protocol, no playlist, no pattern of names.
"""

import errno
import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.error import FFmpegError
from av.stream import Disposition

log = logging.getLogger(__name__)
# Demuxers that read the file they are given and name no other. Playlists (hls, concat, dash) and patterns are not here.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,mxf,nut,ivf,rm,wtv,dv,gxf,nsv,"
    "gif,apng,h264,hevc,obu,av1,m4v,mjpeg,vc1,yuv4mpegpipe,mp3,wav,flac,aac"
)
IMAGES = "png_pipe,jpeg_pipe,bmp_pipe,webp_pipe,tiff_pipe,gif,apng"
MAX_PIXELS = 2**27  # of a picture: 134 million, four times 8K; each takes up to 8 bytes in the decoder
BUFFER = 1 << 18
EXPECTED = "a video file that FFmpeg reads (mp4, mkv, webm, avi, ...)"
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
UNREACHED = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.ENAMETOOLONG: "a path that is too long",
    errno.ELOOP: "a link that leads to itself",
    errno.EACCES: "a file that this user may not read",
}
IMAGE_MARKS = ((0, b"\x89PNG"), (0, b"\xff\xd8\xff"), (8, b"WEBP"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"))
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"<MPD", b"<smil", b"<asx")


class VideoError(ValueError):
    """A file that cannot be used as a video; the message is one line: path, found, expected, what to do."""

    def __init__(self, path: str | os.PathLike, found: str, expected: str, do: str):
        named = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))  # a name may hold line ends
        named = named if len(named) <= 300 else f"{named[:150]} ... {named[-100:]}"
        super().__init__(f"{named}: found {found}; expected {expected}. {do}.")
        self.path, self.found, self.expected, self.do = str(path), found, expected, do


class _Bytes:
    """A file's bytes without its name: FFmpeg would take patterns and protocols from a name."""

    def __init__(self, file: io.BufferedReader):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def opened(
    path: str | os.PathLike, demuxers: str = CONTAINERS
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and chooses its video stream, until the context ends.

    Args:
      demuxers: names of FFmpeg's demuxers that may read it, with commas.

    Raises:
      VideoError: no regular file, or no video in it; or a picture of more than `MAX_PIXELS`, before it is allocated.
    """
    with _regular_file(path) as file:
        limits = {"max_pixels": str(MAX_PIXELS)}
        only = {"format_whitelist": demuxers, "protocol_whitelist": "none"}
        try:
            container = av.open(_Bytes(file), options=limits | only, metadata_errors="replace", buffer_size=BUFFER)
        except (FFmpegError, OSError) as error:
            raise _unopened(path, file, demuxers, error) from error
        with container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(path, _describe(container), EXPECTED, "Give a file with a picture")
            if streams[0].codec_context is None:
                found = "pictures in a codec that this FFmpeg does not decode, or damage"
                raise VideoError(path, found, EXPECTED, "Convert it with ffmpeg, to H.264 say")
            _check_size(path, streams[0].codec_context)
            streams[0].codec_context.options = limits
            yield container, streams[0]


def _regular_file(path: str | os.PathLike) -> io.BufferedReader:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise VideoError(path, KINDS.get(stat.S_IFMT(mode), "no regular file"), EXPECTED, "Name one file")
        return open(path, "rb")
    except OSError as error:
        found = UNREACHED.get(error.errno, f"a file that cannot be opened ({error.strerror})")
        raise VideoError(path, found, EXPECTED, "Check the path") from error
    except ValueError as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(path, f"a path that no file can have ({error})", EXPECTED, "Check the path") from error


def _unopened(path, file: io.BufferedReader, demuxers: str, error: Exception) -> VideoError:
    """Why FFmpeg opened no container."""
    file.seek(0)
    head = file.read(4096)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(PLAYLISTS) or b"<MPD" in head:
        found = "a playlist, which names other files: only the named file is opened"
        return VideoError(path, found, EXPECTED, "Join its parts with ffmpeg and give the result")
    if head and _is_text(head):
        return VideoError(path, "a text file, no video at all", EXPECTED, "Give a file with a picture")
    if demuxers == CONTAINERS and any(head[at:].startswith(mark) for at, mark in IMAGE_MARKS):
        return still(path)
    reason = str(getattr(error, "strerror", None) or error)
    damaged = "an incomplete or damaged file, or no video at all"
    if getattr(error, "errno", None) == errno.EINVAL:
        reason = "another kind of file, no container of videos that is read here"
    else:
        reason = damaged if "nvalid data" in reason else f"{damaged} ({reason})"
    return VideoError(path, reason, EXPECTED, "Copy the file again or convert it with ffmpeg")


def still(path: str | os.PathLike) -> VideoError:
    """The error for an image where a video is expected."""
    return VideoError(path, "a still image", "a video, which has more than one picture", "Give a video file")


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode() if len(head) > 4 else head.decode()
    except UnicodeDecodeError as error:
        if error.end < len(head) - 8:
            return False
        text = head[: error.start].decode()
    return all(c.isprintable() or c in "\t\r\n\f\ufeff" for c in text)


def _describe(container) -> str:
    kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
    return f"only {' and '.join(kinds)}, no video stream" if kinds else "no streams"


def _check_size(path, codec) -> None:
    if codec.width * codec.height > MAX_PIXELS:
        raise too_large(path, f"pictures of {codec.width} x {codec.height} pixels")


def too_large(path: str | os.PathLike, found: str) -> VideoError:
    """The error for pictures beyond `MAX_PIXELS`."""
    return VideoError(path, found, f"at most {MAX_PIXELS} pixels a picture", "Copy the file again or scale it down")
