"""The page as a file: whole, small, closed to the network, and its data what went in."""

import base64
import hashlib
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_pg.runs import METRICS
from rlhf_pg.study import web
from rlhf_pg.study.report import page
from rlhf_pg.study.report.words import WORDS

FOLDER = Path(page.__file__).parent


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text):
        if self.cdata_elem:  # within a script or a style
            self.texts.append((*self.found[-1], text))


def data_in(text):
    """What the viewer will read."""
    return json.loads(re.search(r'type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_data_are_columns_of_what_was_recorded(language):
    found = data_in(page.document(language))
    assert found["title"] == language["title"] and found["left_out"] == []
    assert found["metrics"]["iteration"] == [line["iteration"] for line in language["metrics"]]
    assert ["learner.lam", "0.95"] in found["config"] and ["gold", "none"] in found["config"]
    for record, episode in zip(language["episodes"], found["episodes"], strict=True):
        for key in ("advantage", "value", "kl", "true_advantage", "token", "clipped"):
            values = [token[key] for token in record["tokens"]]
            if isinstance(values[0], float):
                assert episode["tokens"][key] == pytest.approx(values, rel=1e-8)
            else:
                assert episode["tokens"][key] == values


def test_words_are_those_of_documented_metrics():
    assert set(WORDS) <= set(METRICS)


def test_a_metric_that_some_lines_lack_keeps_its_places(language):
    column = data_in(page.document(language))["metrics"]["kl_exact"]
    assert [i for i, value in enumerate(column) if value is not None] == [0, 10, 20, 30, 40, 50]


def test_what_is_no_number_is_missing(made):
    data = made.language_run(iterations=10)
    data["metrics"][0]["score"], data["metrics"][1]["score"] = math.nan, math.inf
    data["episodes"][0]["tokens"][0]["ratio"] = -math.inf
    found = data_in(page.document(data))
    assert found["metrics"]["score"][:2] == [None, None]
    assert found["episodes"][0]["tokens"]["ratio"][0] is None


@pytest.mark.parametrize(
    "text",
    ["</script><b>", "<!--", "-->", "<script>", "]]>", "\u2028\u2029", "\ud800", "&lt;", "é ☃ 𝄞"],
)
def test_any_text_comes_back_and_cannot_end_its_element(made, text):
    found = web.embedded({"text": text})
    assert not set("<>&\u2028\u2029") & set(found)
    found.encode()  # no lone surrogate is left
    assert json.loads(found) == {"text": text}
    data = made.language_run(iterations=10, final_rows=1)
    data["title"] = data["episodes"][0]["prompt"] = text
    if text != "\ud800":
        whole = page.document(data)
        assert data_in(whole)["episodes"][0]["prompt"] == text
        assert [tag for tag, _ in Elements(whole).found].count("script") == 2


def test_a_text_that_looks_like_a_place_in_the_page_stays_a_text(made):
    data = made.language_run(iterations=10, final_rows=1)
    data["title"] = data["episodes"][0]["prompt"] = "{{script}} {{data}} \\1"
    found = data_in(page.document(data))
    assert found["title"] == found["episodes"][0]["prompt"] == "{{script}} {{data}} \\1"


def test_the_page_lets_the_browser_run_its_own_script_alone_and_fetch_nothing(language):
    elements = Elements(page.document(language))
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy and "http" not in policy
    for tag, attributes, text in elements.texts:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    for _, attributes in elements.found:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


SCRIPTS = sorted(FOLDER.parent.glob("*/*.js"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[f"{p.parent.name}/{p.name}" for p in SCRIPTS])
def test_the_scripts_put_in_text_by_text_alone_and_are_short(path):
    script = path.read_text(encoding="utf-8")
    forbidden = (
        "innerHTML|outerHTML|insertAdjacent|document.write|DOMParser|eval|new Function|fetch"
    )
    forbidden += "|XMLHttp|WebSocket|import"
    assert not re.findall(rf"\b(?:{forbidden})\b", re.sub(r"//.*", "", script))
    assert "</script" not in script and "<!--" not in script
    lines = script.splitlines()
    assert len(lines) <= 300 and max(map(len, lines)) <= 120


def long_run(made, iterations, rows, tokens):
    """A run of many long completions, of the same few prompts each time."""
    chance = random.Random(0)
    records = []
    for iteration in [*range(1, iterations + 1), None]:
        for row in range(rows):
            n = tokens
            values = [chance.gauss(0, 1) for _ in range(n)]
            records.append(made.episode([f" word{t}" for t in range(n)], values, values,
                                        iteration=iteration, prompt=f"prompt {row}"))  # fmt: skip
    return {**made.language_run(iterations=10), "episodes": records, "agreement": None}


def test_a_page_that_would_be_too_large_keeps_whole_iterations_evenly_and_says_so(made):
    data = long_run(made, iterations=30, rows=4, tokens=150)
    text = page.document(data)
    assert 1_000_000 < len(text.encode()) < 2_000_000
    found = data_in(text)
    kept = [episode["iteration"] for episode in found["episodes"]]
    assert kept.count(None) == 4
    whole = sorted({i for i in kept if i is not None and kept.count(i) == 4})
    assert {1, 30} <= set(whole) and 4 < len(whole) < 30
    gaps = [b - a for a, b in zip(whole, whole[1:], strict=False)]
    assert max(gaps) <= 3 * min(gaps) + 2
    missing = len(data["episodes"]) - len(kept)
    assert found["left_out"] == [
        f"{missing} of {len(data['episodes'])} recorded completions are not shown, to keep the "
        "page small; tokens.jsonl in the run's folder has all of them."
    ]


def test_completions_after_training_leave_room_for_those_before(made):
    data = long_run(made, iterations=2, rows=6, tokens=1200)
    kept = [e["iteration"] for e in data_in(page.document(data))["episodes"]]
    assert kept.count(None) >= 2 and kept.count(2) >= 2


def test_long_curves_and_histograms_are_thinned(made):
    data = made.language_run(iterations=10)
    line = data["metrics"][0]
    data["metrics"] = [{**line, "iteration": i, "score": math.sin(i)} for i in range(1, 50_001)]
    data["estimators"] = [made.estimators(f"task {k}", 0.1, 5000) for k in range(3)]
    text = page.document(data)
    found = data_in(text)
    assert len(text.encode()) < 2_000_000 and len(found["left_out"]) == 2
    iterations = found["metrics"]["iteration"]
    assert len(iterations) <= 1001 and iterations[0] == 1 and iterations[-1] == 50_000
    assert len(found["estimators"][2]["methods"][0]["projections"]) == 500


def test_the_headline_says_where_the_run_began_and_ended(made):
    data = made.language_run(iterations=10)
    data["metrics"] = [{"score": -0.114, "gold": 0.2, "kl": 0.01}, {"score": math.nan},
                       {"score": 1.6, "gold": 1.78, "kl": 4.04}]  # fmt: skip
    assert page.headline(data) == (
        "In 3 iterations, the score went from −0.11 to +1.60, gold from +0.20 to +1.78 and KL from "
        "0.0 to 4.0."
    )
    assert page.headline({**data, "metrics": []}) == "This run has recorded no metrics yet."
    only = {**data, "metrics": [{"score": 1.0}]}
    assert page.headline(only) == "In 1 iteration, no score was recorded."


def test_the_file_is_whole_or_as_before(tmp_path, language, monkeypatch):
    path = tmp_path / "deep" / "report.html"
    assert page.write_page(path, language) == path
    before = path.read_text(encoding="utf-8")
    with pytest.raises(KeyError):
        page.write_page(path, {"title": "half"})
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_completion_without_tokens_is_no_obstacle(made):
    data = made.language_run(iterations=10)
    data["episodes"][0]["tokens"] = []
    assert data_in(page.document(data))["episodes"][0]["tokens"] == {"token": []}
