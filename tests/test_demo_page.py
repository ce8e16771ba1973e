"""The demo's page: self-contained, safe with any text, its terms defined, readable on a phone."""

import re
import shutil
from base64 import b64encode
from hashlib import sha256

import pytest

from rlhf_pg import demo_page
from rlhf_pg.demo import POLICIES, ROWS
from rlhf_pg.language.config import DemoConfig

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TEXTS = ["<script>alert(1)</script>", "[bold]loud[/bold]", "&amp; \\[red]a\\"]


def written(path, config=None, gold=(0.3, 2.0, -6.2), finished=True):
    """The page and the text of its file, for three policies with this gold."""
    table = {
        policy: dict.fromkeys(ROWS, 0.5) | {"gold": x}
        for policy, x in zip(POLICIES, gold, strict=True)
    }
    table["base"]["kl"] = -0.001
    samples = [
        {"policy": policy, "prompt": "a <b>film</b> [i]", "completion": text, "score": 1.0,
         "gold": -1.0, "finished": finished}
        for policy, text in zip(POLICIES, TEXTS, strict=True)
    ]  # fmt: skip
    lines = [{"iteration": i, "score": 0.1 * i, "gold": -0.1 * i} for i in range(1, 61)]
    curves = {"with KL": lines, "without KL": lines}
    page = demo_page.write_page(
        path / "report.html", table, ROWS, samples, curves, 0.7, config or DemoConfig()
    )
    return page, page.read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(tmp_path):
    _, text = written(tmp_path)
    assert not re.search(r"<(script|link|img|iframe)|src\s*=|@import|url\(", text)
    assert re.findall(r'href="(.*?)"', text) == ["with-kl/report.html", "without-kl/report.html"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_texts_are_shown_and_never_run(tmp_path):
    _, text = written(tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "[bold]loud[/bold]" in text
    assert "a &lt;b&gt;film&lt;/b&gt; [i]" in text and "&amp;amp; \\[red]a\\" in text


def test_the_lead_says_what_happened_to_gold(tmp_path):
    lead = " ".join(re.search(r'<p class="lead">(.*?)</p>', written(tmp_path)[1], re.S)[1].split())
    assert "goes from +0.3 to −6.2" in lead and "gold ends at +2.0" in lead


@pytest.mark.parametrize(("gold", "expected"), [((0, 1, -1), False), ((-1, -1, 0), True)])
def test_a_run_in_which_gold_rises_does_not_claim_a_fall(tmp_path, gold, expected):
    assert ("does not show it" in written(tmp_path, gold=gold)[1]) == expected


def test_every_row_of_the_table_is_defined_and_its_numbers_are_plain(tmp_path):
    _, text = written(tmp_path)
    terms = re.findall(r"<dt>(.*?)</dt><dd>.{20,}?</dd>", text)
    assert all(any(label.startswith(term) for term in terms) for label in ROWS.values())
    cells = re.findall(r"<td>(.*?)</td>", text)
    assert len(cells) == 3 * len(ROWS)
    assert set(cells) == {"0.50", "0.00", "−6.20", "0.30", "2.00"}


@pytest.mark.parametrize(
    ("config", "repeat"),
    [(DemoConfig(seed=3), "demo --seed 3<"),
     (DemoConfig(preset="smoke"), "demo --preset smoke --seed 0<")],
)  # fmt: skip
def test_the_page_names_the_next_commands(tmp_path, config, repeat):
    folder = tmp_path / "my runs"
    _, text = written(folder, config)
    assert f"inspect '{folder}/with-kl'".replace("'", "&#x27;") in text and repeat in text


def test_a_completion_cut_at_the_limit_is_marked(tmp_path):
    assert "cut at the length limit" in written(tmp_path, finished=False)[1]
    assert "cut at the length limit" not in written(tmp_path)[1]


def test_the_charts_are_in_the_page_and_in_a_file(tmp_path):
    page, text = written(tmp_path)
    alone = page.with_suffix(".svg").read_text(encoding="utf-8")
    for drawing in (text, alone):
        assert all(f"PPO {name}: mean score" in drawing for name in ("with KL", "without KL"))
        assert drawing.count(">score of a completion</text>") == 2
        assert drawing.count(">iteration</text>") == 2 and "learned reward" in drawing
    assert text.count("<svg") == 2 and alone.count("<svg") == 1
    assert ">60</text>" in alone and ">1</text>" in alone and "+6.0" in alone


def test_its_policy_allows_its_own_styles_and_nothing_else(tmp_path):
    """A hash allows an element and no attribute, and there is no script to allow."""
    _, text = written(tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)
    hashes = {
        f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
        for style in re.findall("<style>(.*?)</style>", text, re.DOTALL)
    }
    assert text.index(policy) < text.index("<style>")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert set(rules["style-src"].split()) == hashes
    assert {rules[name] for name in ("default-src", "script-src", "form-action")} == {"'none'"}
    assert not re.search(r"<[^>]*\s(style|on\w+)\s*=|<script", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_on_a_narrow_screen(tmp_path, scheme):
    from playwright.sync_api import sync_playwright

    page, _ = written(tmp_path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        # Charts fill the width, and their text is not scaled down to nothing.
        boxes = tab.locator("svg").evaluate_all("all => all.map(n => n.getBoundingClientRect())")
        assert all(box["width"] > 330 for box in boxes)
        heights = tab.locator("svg text").evaluate_all(
            "all => all.map(n => n.getBoundingClientRect().height)"
        )
        assert min(heights) > 9
        assert (
            tab.locator("td").evaluate_all(
                "all => Math.max(...all.map(n => n.getBoundingClientRect().height))"
            )
            < 70
        )  # no number is broken into lines
        browser.close()
