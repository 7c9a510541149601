"""`make docs`: builds the site from docs/ into build/site, and fails if a link, anchor, image or page is missing.

Pages may link to files elsewhere in the repository; the site gets copies of these. `<!-- generated: NAME -->` in a page
stands for a table of reference.py. Usage, from the repository's root: python -m deploy.docs.build
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deploy.docs import reference

ROOT = Path(__file__).parents[2]
GENERATED = {"configuration": reference.configuration, "metrics": reference.metric_tables}
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)#]+)")


def main() -> None:
    print(f"docs: {build(ROOT / 'docs', ROOT / 'build')}/index.html")


def build(docs: Path, into: Path) -> Path:
    """Copy the pages into `into`, build the site, and return the site's folder.

    Raises:
        SystemExit: The message lists the broken references.
    """
    pages, site = into / "docs", into / "site"
    for folder in (pages, site):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(docs, pages)
    shutil.copy(ROOT / "CHANGELOG.md", pages / "changelog.md")
    shutil.copy(Path(__file__).with_name("site.css"), pages)
    shutil.copy(Path(__file__).with_name("zensical.toml"), into)
    for page in pages.rglob("*.md"):
        page.write_text(_filled(page.read_text(), page, pages))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "-f",
        into / "zensical.toml",
    ]
    done = subprocess.run(command, cwd=into, capture_output=True, text=True, env={"NO_COLOR": "1"}, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    if problems := list(_broken(site)):
        raise SystemExit("\n".join(problems))
    return site


def _filled(text: str, page: Path, pages: Path) -> str:
    text = re.sub(r"<!-- generated: (\w+) -->", lambda name: GENERATED[name[1]](), text)
    return OUTSIDE.sub(lambda link: _copied(link, page, pages), text)


def _copied(link: re.Match[str], page: Path, pages: Path) -> str:
    """The link; a link out of docs/ becomes a link to a copy of its file."""
    up, path = len(link[1]) // 3, link[2]
    depth = len(page.relative_to(pages).parents) - 1
    if up <= depth:
        return link[0]
    copy = pages / "files" / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / path, copy)
    return f"]({'../' * depth}files/{path}"


class _Page(HTMLParser):
    """The identifiers and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def _broken(site: Path) -> Iterator[str]:
    """Find links of the built pages without a file or an anchor; zensical's strict mode does not check images."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(site)}: {link} leads to no file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{path.relative_to(site)}: {link} leads to no anchor"


if __name__ == "__main__":
    main()
