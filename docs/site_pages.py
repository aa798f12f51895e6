"""For mkdocs (mkdocs.yml): pages of the repository's top folder, and links that hold there and on the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# A file beside mkdocs.yml -> its page.
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the top folder, whose links into `docs/` lose that folder."""
    top = Path(config.config_file_path).parent
    for name, page in TOP.items():
        text = (top / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_renamed(text)))
    return files


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Links from `docs/`, or from a folder in it, to the top folder: on the site it is `docs/` itself."""
    within = "../" * page.file.src_uri.count("/")
    return _renamed(markdown.replace(f"]({within}../", f"]({within}"))


def _renamed(text: str) -> str:
    for name, page in TOP.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text
