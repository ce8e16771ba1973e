"""`rlhf-pg study playground`: one offline page on which policy gradients move."""

from pathlib import Path

from reward_models.files import saved_text
from rlhf_pg.progress import console
from rlhf_pg.study import web
from rlhf_pg.study.config import PlaygroundConfig

# Computations first, without a document; then what draws them. Each file may use those before it.
SCRIPTS = (
    "random.js", "algebra.js", "bandit.js", "two_state.js", "walk.js", "gridworld.js",
    "gaussian.js", "parts.js", "bandit_view.js", "two_state_view.js", "walk_view.js",
    "gridworld_view.js", "gaussian_view.js", "main.js",
)  # fmt: skip


def main(config: PlaygroundConfig) -> Path:
    """Write the page and return its path."""
    path = Path(config.output)
    saved_text(path, document())
    console.print(f"open {path} in a browser", soft_wrap=True)
    return path


def document() -> str:
    """The page as HTML text."""
    folder = Path(__file__).parent
    return web.filled(*web.shell(folder, "playground.html", ["playground.css"], SCRIPTS))
