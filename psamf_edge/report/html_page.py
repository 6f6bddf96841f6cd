"""The frame of every HTML page: one offline file, whose policy allows its own style and script alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable


def html_page(title: str, style: str, body: Iterable[str], script: str | None = None) -> str:
    """A whole page.

    Args:
        title: escaped for HTML already, as `body` is.
        style: the one style sheet.
        body: lines between <body> and </body>.
        script: the one script, which ends the body; None for none.
    """
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{_hash_source(style)}'"
    if script is not None:
        policy += f"; script-src '{_hash_source(script)}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            *body,
            *([] if script is None else [f"<script>{script}</script>"]),
            "</body>",
            "</html>",
            "",
        ]
    )


def _hash_source(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
