"""What pages have in common: scripts, style, and one HTML file that needs no network.

The scripts of a page are files that share one scope, inserted in the order given. The page's
content security policy lists the hashes of its script and style; the browser runs nothing else.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent
# Scripts that every page has: each may use those before it.
SCRIPTS = ("elements.js", "numbers.js", "charts.js", "controls.js", "player.js")


def read(folder: Path, names: Sequence[str]) -> str:
    """The texts of files in a folder, one after another."""
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def shell(
    folder: Path, html: str, styles: Sequence[str], scripts: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The text of a page with places such as {{title}}, and its parts style, script and policy.

    `html`, `styles` and `scripts` are files in `folder`; the shared ones come before them.
    """
    style = read(SHARED, ["page.css"]) + read(folder, styles)
    script = '"use strict";\n' + read(SHARED, SCRIPTS) + read(folder, scripts)
    parts = {"style": style, "script": script, "policy": content_policy([style], [script])}
    return read(folder, [html]), parts


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text with each {{name}} replaced by its part; parts are inserted as they are."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def content_policy(styles: Sequence[str], scripts: Sequence[str] = ()) -> str:
    """A Content-Security-Policy for a page that fetches nothing, with these styles and scripts.

    A browser ignores all others, such as text of models or data might bring in.
    """
    style, script = (" ".join(map(_hash, texts)) or "'none'" for texts in (styles, scripts))
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """JSON that is safe inside HTML: nothing in it can end the element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda c: f"\\u{ord(c[0]):04x}", text)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
