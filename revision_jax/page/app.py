"""The page: a video chosen or uploaded, a question, its place in the line, the answer, past questions."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from revision_jax.page import drawing
from revision_jax.page.library import Refused
from revision_jax.page.service import LONGEST, Service
from revision_jax.quoting import escaped

# Read by Gradio when it is imported: it would tell its makers of every start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import fastapi
    import gradio as gr
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise ImportError(f"demo needs {error.name}: pip install 'revision_jax[demo]'") from error

KEPT = 50  # past questions of a person
SWEEP_S = 3600  # uploads that were never taken are deleted after this
LOCAL = ("127.0.0.1", "localhost", "::1")
HERE = Path(__file__).parent
# The page asks no other machine for anything, and a browser holds it to that.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
FONT = ["ui-sans-serif", "system-ui", "sans-serif"]
Past = list[tuple[str, str]]


def make_app(service: Service, host: str) -> fastapi.FastAPI:
    """The page as a web application.

    Args:
      host: where it will be bound; on loopback only requests to a loopback name are answered.
    """
    app = fastapi.FastAPI(openapi_url=None)
    if host in LOCAL:  # another site's page cannot reach it by a name that leads here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])

    @app.get("/video/{key}")
    def video(key: str) -> FileResponse:
        try:
            return FileResponse(service.library.find(key).path)
        except Refused as error:
            raise fastapi.HTTPException(404, str(error)) from error

    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><script>{_text("page.js")}</script>'
    theme = gr.themes.Default(font=FONT, font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        app, make_page(service), "/", max_file_size=service.library.limits.bytes, ssr_mode=False, run_history=False,
        footer_links=[], head=head, css=_text("page.css"), theme=theme, show_error=False,
    )  # fmt: skip


def make_page(service: Service) -> gr.Blocks:
    """Gradio's parts and what they do; `Service.ask` behind them."""
    library = service.library
    with gr.Blocks(title="revision_jax", analytics_enabled=False, delete_cache=(SWEEP_S, SWEEP_S)) as page:
        own, asked = gr.State([]), gr.State([])
        gr.Markdown("# When does it happen?")
        with gr.Row():
            with gr.Column(scale=3):
                chosen = gr.Dropdown([], label="Video", elem_id="video")
                player = gr.HTML(drawing.player(None), elem_id="player")
                with gr.Row():
                    sentence = gr.Textbox(label="What happens?", max_length=LONGEST, scale=4, elem_id="sentence")
                    button = gr.Button("Find", variant="primary", scale=1, elem_id="find")
                status = gr.HTML(elem_id="status")
                answer = gr.HTML(elem_id="answer")
            with gr.Column(scale=2):
                upload = gr.File(label="Upload a video", height=120, elem_id="upload")
                gr.Markdown("### Past questions")
                past = gr.HTML(drawing.past([]), elem_id="past")

        def show(key: str | None) -> str:
            return drawing.player(library.find(key) if key else None)

        def take(path: str | None, mine: list[str]) -> tuple:
            if path is None:
                return gr.skip(), gr.skip(), gr.skip(), gr.skip()
            try:
                video = library.add(path)
            except ValueError as error:
                return None, mine, gr.skip(), drawing.status(_told(error, path), "error")
            mine = [video.key, *mine]
            choices = gr.Dropdown(library.choices(mine), value=video.key)
            return None, mine, choices, drawing.status(f"{video.name} is here; ask what happens in it")

        def find(key: str | None, text: str, before: Past) -> Iterator[tuple[Any, ...]]:
            yield drawing.status("asks"), "", gr.skip(), gr.skip()
            try:
                for told in service.ask(key, text):
                    if isinstance(told, str):
                        yield drawing.status(told), gr.skip(), gr.skip(), gr.skip()
                        continue
                    drawn = drawing.answer(*told)
                    after = [(drawing.headline(*told), drawn), *before][:KEPT]
                    yield drawing.status("answered"), drawn, after, drawing.past(after)
            except (ValueError, OSError, MemoryError) as error:
                yield drawing.status(str(error), "error"), "", gr.skip(), gr.skip()

        private = {"api_visibility": "private", "show_progress": "hidden"}
        page.load(lambda: gr.Dropdown(library.choices([]), value=None), None, chosen, **private)
        chosen.change(show, chosen, player, **private)
        upload.upload(take, [upload, own], [upload, own, chosen, status], **private)
        doing = {"fn": find, "inputs": [chosen, sentence, asked], "outputs": [status, answer, asked, past]}
        gr.on([button.click, sentence.submit], **doing, concurrency_limit=service.line.most, **private)
    return page


def _told(error: ValueError, path: str) -> str:
    """An error's message with a file's name instead of its place on this machine."""
    return escaped(str(error).replace(path, Path(path).name))


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
