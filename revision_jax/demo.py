"""Ask videos on a page in the browser: `python -m revision_jax.demo --help`."""

import argparse
import sys
import tempfile
from pathlib import Path

from revision_jax import lazy, verb

asking = lazy.module("revision_jax.runs.asking")
library = lazy.module("revision_jax.page.library")
line = lazy.module("revision_jax.page.line")
runs = lazy.module("revision_jax.runs.run")
server = lazy.module("revision_jax.page.server")
service = lazy.module("revision_jax.page.service")
units = lazy.module("revision_jax.units")

USAGE = """
Examples:
  python -m revision_jax.demo --videos lectures/
  python -m revision_jax.demo --videos films/ --workdir runs/stage2-tiny --depth 3
  python -m revision_jax.demo --videos films/ --host 0.0.0.0 --max_upload_mib 200 --max_minutes 30

Choose a video of the folder, or upload one, and ask what happens in it. The page shows the moments, and which windows
each level of the search kept; a click on a moment has the player go there. Needs `pip install 'revision_jax[demo]'`.
Needs no network, and the page loads nothing from elsewhere.

One search at a time uses the devices; other people see how many are before them. Features are kept like those of
`ground`, so a second question reads no video again. Uploads are seen by who made them, and deleted at the end.

Bound to 127.0.0.1 unless --host says otherwise. There is no password: who reaches the port may ask, upload, and see
the videos of the folder.

Exit code 0 after Ctrl-C; 2 after an error.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser("demo", __doc__, USAGE)
    add = parser.add_argument
    add("--videos", metavar="DIR", help="a folder of videos to choose from (default: uploads only)")
    add("--workdir", metavar="RUN", help="a trained run, or a bundle (default: the newest under ./runs)")
    verb.add_search(parser)
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: %(default)s)")
    add("--port", type=int, default=7860, metavar="N", help="0: one that is free (default: %(default)s)")
    add("--max_upload_mib", type=float, default=500.0, metavar="X", help="of one upload (default: %(default)g)")
    add("--max_minutes", type=float, default=180.0, metavar="X", help="of an uploaded video (default: %(default)g)")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["search", "mesh", "model"]), quiet=True)


def act(args: argparse.Namespace) -> None:
    for name in ("top", "max_upload_mib", "max_minutes"):
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; expected more than 0.")
    fields, least = verb.searched(args)
    limits = library.Limits(round(args.max_upload_mib * units.MIB), 60.0 * args.max_minutes)
    with tempfile.TemporaryDirectory(prefix="revision_jax_demo_") as folder, server.listen(args.host, args.port) as at:
        videos = library.Library(args.videos and Path(args.videos), Path(folder), limits)
        run = runs.load_run(args.workdir, fields, args.budget)
        run.check_sentences(["something happens"])  # loads it: the first who asks does not wait for that
        answering = service.Service(run, videos, line.Line(), asking.Asking(args.top, least))
        print(f"uses {run.name}\nopen {server.address(at)}  (Ctrl-C ends it)", flush=True)
        server.serve(answering, at, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
