"""The page in a browser: numbers equal Python's, the keyboard reaches everything, text is text."""

import random
import shutil

import pytest
import torch

from rlhf_pg.core.returns import gae, td_errors
from rlhf_pg.study.report import page

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome")
     if (found := shutil.which(name))), None,
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, language, control, hostile):
    """The pages as files, which is how people open them."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {"language": language, "control": control, "hostile": hostile}
    return {name: page.write_page(folder / f"{name}.html", data) for name, data in runs.items()}


@pytest.fixture
def open_page(browser):
    """Opens a file; afterwards, asserts that there were no requests, errors or console messages."""
    problems, contexts = [], []

    def opened(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)

        def intercepted(route):
            if not route.request.url.startswith(("file:", "data:")):
                problems.append(f"request for {route.request.url}")
                return route.abort()
            return route.continue_()

        context.route("**/*", intercepted)
        tab = context.new_page()
        tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
        tab.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def language_page(open_page, files):
    return open_page(files["language"])


def shown(tab):
    """The name and the value of every token that is shown."""
    return tab.locator(".t").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")


def move(tab, slider, value):
    tab.locator(f"#{slider}").evaluate(
        "(node, v) => { node.value = v; node.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def in_python(record, gamma, lam, kl):
    """Reward, delta and advantage of one record, by the library's own functions."""

    def row(name):
        return torch.tensor([[token[name] for token in record["tokens"]]], dtype=torch.float64)

    charge = kl * row("kl") if record["kl_in"] == "reward" else 0.0
    rewards, ends = row("score") - charge, torch.zeros_like(row("score"))
    ends[:, -1] = 1
    delta = td_errors(rewards, row("value"), row("next_value"), gamma)
    advantages = gae(rewards, row("value"), row("next_value"), ends, gamma, lam)
    return {"reward": rewards[0], "delta": delta[0], "advantage": advantages[0]}


@pytest.mark.parametrize("kind", ["language", "control"])
def test_reward_delta_and_gae_are_those_of_python_on_every_token(open_page, files, request, kind):
    tab = open_page(files[kind])
    chance = random.Random(3)
    draws = [[chance.random(), chance.random(), chance.random()] for _ in range(6)]
    for gamma, lam, kl in [*draws, [1, 1, 0], [0, 0.5, 0.2], [1, 0, 0.5]]:
        found = tab.evaluate("s => window.report.recompute(...s)", [gamma, lam, kl])
        records = request.getfixturevalue(kind)["episodes"]
        assert len(found) == len(records)
        for record, numbers in zip(records, found, strict=True):
            for name, expected in in_python(record, gamma, lam, kl).items():
                got = torch.tensor(numbers[name], dtype=torch.float64)
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_a_kl_in_the_loss_does_not_touch_the_reward(open_page, tmp_path, made):
    data = made.language_run(iterations=10, kl_in="loss")
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    for record, numbers in zip(
        data["episodes"], tab.evaluate("() => window.report.recompute(1, 0.9, 5)"), strict=True
    ):
        expected = torch.tensor([token["score"] for token in record["tokens"]]).double()
        torch.testing.assert_close(torch.tensor(numbers["reward"]).double(), expected)
    assert "KL is in the loss" in tab.inner_text("#slider-note")


def test_the_runs_own_settings_give_the_recorded_advantages(language_page, language):
    for record, numbers in zip(
        language["episodes"], language_page.evaluate("() => window.report.recompute()"), strict=True
    ):
        recorded = torch.tensor([token["advantage"] for token in record["tokens"]]).double()
        got = torch.tensor(numbers["advantage"]).double()
        torch.testing.assert_close(got, recorded, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("slider", "value", "channel"),
    [("gamma", 0.6, "δ"), ("lam", 0.1, "advantage"), ("kl", 0.5, "reward")],
)
def test_each_slider_changes_the_tokens_the_equations_and_the_agreement(
    language_page, slider, value, channel
):
    tab = language_page
    tab.locator(f"input[name=channel][value='{channel}']").check(force=True)
    parts = ("#equations", "#agreement-facts", "#slider-note")
    before = shown(tab), *(tab.inner_text(part) for part in parts)
    move(tab, slider, value)
    after = shown(tab), *(tab.inner_text(part) for part in parts)
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert "do not change" in after[3]
    number = tab.locator(f"#{slider} + input[type=number]")
    assert float(number.input_value()) == value
    tab.click("#reset")
    assert (shown(tab), *(tab.inner_text(part) for part in parts)) == before


def test_the_number_beside_a_slider_can_be_typed(language_page, language):
    number = language_page.locator("#lam + input[type=number]")
    number.fill("0.9871")
    number.press("Enter")
    record = language["episodes"][-1]
    expected = in_python(record, record["gamma"], 0.9871, record["kl_coef"])["advantage"]
    labels = shown(language_page)[-len(record["tokens"]) :]
    for label, number in zip(labels, expected.tolist(), strict=True):
        shown_number = label.rsplit(" ", 1)[1].replace("−", "-").replace("+", "")
        assert float(shown_number) == pytest.approx(number, abs=6e-4)


def test_a_run_without_a_critic_shows_and_judges_the_advantage_that_its_learner_used(
    open_page, tmp_path, made
):
    data = made.language_run(iterations=10, baseline="leave-one-out")
    for record in data["episodes"]:
        for token in record["tokens"]:
            token["value"] = token["next_value"] = 0.0
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    assert tab.locator("#lam, #gamma, #agreement-lam").count() == 0  # there is no GAE
    assert tab.locator("input[value='δ'], input[value='V']").count() == 0
    assert "leave-one-out" in tab.inner_text("#slider-note")
    before = shown(tab)
    move(tab, "kl", 0.7)
    assert shown(tab) == before
    record = data["episodes"][-1]
    tab.locator("article").last.locator(".t").first.click()
    equation = tab.inner_text("#equations").replace("−", "-").replace("+", "")
    whole = sum(token["reward"] for token in record["tokens"])  # gamma is 1
    advantage = record["tokens"][0]["advantage"]
    baseline = f"{whole - advantage:.3f}"
    assert "A = G₀ - b" in equation and f"{advantage:.3f}" in equation
    assert f"{whole:.3f} - " in equation and baseline in equation
    tokens = [token for record in data["episodes"] for token in record["tokens"]]
    pairs = torch.tensor(
        [[x["advantage"], x["true_advantage"]] for x in tokens if x["true_advantage"] is not None],
        dtype=torch.float64,
    ).T
    found = tab.locator("#agreement-facts b").first.inner_text().replace("−", "-")
    assert float(found) == pytest.approx(float(torch.corrcoef(pairs)[0, 1]), abs=6e-4)


@pytest.mark.parametrize(("scale", "temperature"), [(0.02, 0.0), (0.02, 0.1), (1.0, 0.1)])
def test_scaled_and_shaped_rewards_stand_beside_their_critic(
    open_page, tmp_path, made, scale, temperature
):
    """The equation goes from the environment's reward to the learner's, and the rest follows."""
    data = made.control_run(steps=40, recorded=())
    for record in data["episodes"]:
        record |= {"reward_scale": scale, "entropy_temperature": temperature}
        for token in record["tokens"]:
            token["score"] = -8.7
            token["reward"] = max(-10.0, scale * -8.7) - temperature * token["logprob"]
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    record = data["episodes"][0]
    for found, name in zip(tab.evaluate("() => window.report.recompute()")[0]["reward"],
                           record["tokens"], strict=True):  # fmt: skip
        assert found == pytest.approx(name["reward"], abs=1e-6)
    tab.locator("article .t").first.click()
    equations = tab.inner_text("#equations").replace("−", "-")
    assert "raw reward" in equations and "-8.700" in equations
    assert f"{record['tokens'][0]['reward']:.3f}" in equations
    assert ("α·log π" in equations) == (temperature > 0)
    assert "were scaled or shaped" in tab.inner_text("#slider-note")
    tab.locator("input[value=raw]").check(force=True)
    assert "-8.700" in shown(tab)[0].replace("−", "-")


@pytest.mark.parametrize(
    ("env", "state", "action", "mark"),
    [("CartPole-v1", [1.2, 0.0, 0.1, 0.0], "left", "x1='230'"),
     ("Pendulum-v1", [0.0, 1.0, 0.0], "+1.50", "x2='98'"),
     ("Acrobot-v1", [1.0, 0.0, 1.0, 0.0, 0.0, 0.0], "torque −1", "y2='140'"),
     ("MountainCar-v0", [0.5, 0.0], "coast", "cx='284")],
)  # fmt: skip
def test_a_classic_episode_is_drawn_and_plays_in_step_with_its_numbers(
    open_page, tmp_path, made, env, state, action, mark
):
    data = made.control_run(steps=30, recorded=())
    data["config"]["env"] = env
    for record in data["episodes"]:
        for t, token in enumerate(record["tokens"]):
            token["state"] = [x + (0.001 * t if i == 0 else 0) for i, x in enumerate(state)]
            token["token"] = action
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    card = tab.locator("article").first
    card.locator(".t").first.click()
    name, value = mark.rstrip("'").split("='")
    shapes = card.locator(f".scene [{name}^='{value}']")
    assert shapes.count() >= 1, card.locator(".scene").inner_html()
    card.get_by_role("button", name="Step").click()
    assert "step 2 of 30" in card.locator(".stage").inner_text()
    assert "step 2 of 30" in tab.inner_text("#inspector")
    cursor = card.locator(".strip svg").nth(1).locator(".cursor")
    before = float(cursor.get_attribute("x1"))
    card.get_by_role("button", name="Play").click()
    tab.locator("#inspector", has_text="step 30 of").wait_for()
    assert float(cursor.get_attribute("x1")) > before
    assert card.get_by_role("button", name="Play").count() == 1  # it stops at the end
    card.get_by_role("button", name="Reset").click()
    assert "step 1 of 30" in tab.inner_text("#inspector")


def test_keys_alone_reach_a_token_and_move_between_tokens(language_page):
    tab = language_page
    for _ in range(120):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.getAttribute('role')") == "option":
            break
    focused = """(node => node.closest('article').dataset.e + ':' + node.dataset.t)(
        document.activeElement)"""
    episode, token = map(int, tab.evaluate(focused).split(":"))
    tab.keyboard.press("Home")
    assert tab.evaluate(focused) == f"{episode}:0"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == f"{episode}:2"
    assert "token 3 of" in tab.inner_text("#inspector")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(focused) == f"{episode + 1}:2"
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("End")
    last = tab.evaluate("document.activeElement.nextElementSibling")
    assert last is None
    tab.keyboard.press("ArrowRight")  # at the end, it stays
    assert tab.evaluate(focused).startswith(f"{episode}:")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


@pytest.mark.parametrize("slider", ["scrub", "gamma", "lam", "kl"])
def test_keys_alone_move_a_slider(language_page, slider):
    tab = language_page
    tab.focus(f"#{slider}")
    before = tab.input_value(f"#{slider}")
    tab.keyboard.press("ArrowLeft")
    assert float(tab.input_value(f"#{slider}")) < float(before)


def test_every_field_has_a_name_and_every_section_a_heading(language_page):
    unnamed = language_page.evaluate("""() =>
      [...document.querySelectorAll('input, select, button')].filter(node => !(
        node.labels?.length && node.labels[0].textContent.trim() ||
        node.getAttribute('aria-label') || node.textContent.trim()
      )).map(node => node.outerHTML)""")
    assert unnamed == []
    assert language_page.locator("section[aria-labelledby]").count() == 4
    assert language_page.locator("svg[role=img]:not([aria-label])").count() == 0
    language_page.keyboard.press("Tab")
    assert language_page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):  # what has the focus is seen, itself or in the label of a hidden radio
        language_page.keyboard.press("Tab")
        assert language_page.evaluate("""() => {
          const node = document.activeElement;
          return [node, node.nextElementSibling].some(
            one => one && getComputedStyle(one).outlineStyle !== 'none');
        }"""), language_page.evaluate("document.activeElement.outerHTML")


def test_the_scrubber_moves_every_chart_and_chooses_the_nearest_iteration(language_page, language):
    tab = language_page
    values = tab.locator("#charts output")
    before = values.all_inner_texts()
    move(tab, "scrub", 18)  # the 19th line; iteration 20 is the nearest that was recorded
    after = values.all_inner_texts()
    assert sum(a != b for a, b in zip(before, after, strict=True)) >= len(before) - 1
    at = tab.locator(".chart", has_text="score").first.locator("output").inner_text()
    assert float(at) == pytest.approx(language["metrics"][18]["score"], abs=6e-4)
    assert tab.locator("#filters select").nth(1).input_value() == "20"
    assert set(tab.locator("article header span:nth-child(2)").all_inner_texts()) == {
        "iteration 20"
    }


def test_episodes_are_filtered_sorted_and_set_side_by_side(language_page, language):
    tab = language_page
    prompt, iteration, order = (tab.locator("#filters select").nth(i) for i in range(3))
    iteration.select_option("")
    order.select_option("-score")
    tab.click("#more")
    facts = tab.locator("article header span:nth-child(3)").all_inner_texts()
    scores = [float(fact.split()[1].replace("−", "-").replace("+", "")) for fact in facts]
    assert scores == sorted(scores, reverse=True) and len(scores) > 20
    tab.get_by_label("Length at least").fill("25")
    expected = sum(len(record["tokens"]) >= 25 for record in language["episodes"])
    assert tab.locator("article").count() == min(expected, 16) and expected > 0
    tab.get_by_label("Length at least").fill("")
    tab.get_by_label("Error of the advantage at least (SE)").fill("4")
    assert 0 < tab.locator("article").count() < 8  # the truth was measured after training alone
    tab.get_by_label("Error of the advantage at least (SE)").fill("")
    wanted = language["episodes"][0]["prompt"]
    prompt.select_option(wanted)
    tab.check("#side")
    assert tab.locator(".group h3").all_inner_texts() == [wanted]
    places = tab.locator(".side article header span:first-child").all_inner_texts()
    assert places[0] == "iteration 1" and places[-1] == "after training"
    assert len(places) == sum(record["prompt"] == wanted for record in language["episodes"])


def test_side_by_side_shows_all_iterations_without_a_further_choice(language_page):
    tab = language_page
    tab.check("#side")
    first = tab.locator(".side").first.locator("article header span:first-child")
    assert len(set(first.all_inner_texts())) == 8
    hint = tab.locator(".group .hint").first
    assert hint.is_visible() and "Scroll sideways" in hint.inner_text()
    tab.locator(".side").first.evaluate("node => { node.scrollLeft = node.scrollWidth; }")
    hint.wait_for(state="hidden")
    tab.uncheck("#side")
    assert tab.locator("#filters select").nth(1).input_value() == "null"  # as before


def test_metrics_have_words_identifiers_and_what_is_good(language_page):
    card = language_page.locator(".chart", has_text="explained_variance").inner_text()
    assert "explained variance of the critic" in card and "Good: " in card


def test_the_equations_hold_the_tokens_numbers(language_page, language):
    tab = language_page
    record = language["episodes"][-1]
    article = tab.locator(f"article[data-e='{len(language['episodes']) - 1}']")
    article.locator(".t").nth(1).click()
    equations = tab.inner_text("#equations").replace("−", "-").replace("+", "")
    token = record["tokens"][1]
    for name in ("reward", "delta", "advantage", "value", "next_value"):
        assert f"{token[name]:.3f}" in equations, name
    move(tab, "lam", 0.3)
    expected = in_python(record, record["gamma"], 0.3, record["kl_coef"])["advantage"][1]
    last = tab.locator("#equations p").last.inner_text().replace("−", "-")
    assert float(last.split(" = ")[-1]) == pytest.approx(float(expected), abs=6e-4)
    alternatives = tab.locator("#inspector .top span:first-child, #inspector .top i + span")
    assert alternatives.count() >= 5


def test_pointing_shows_a_token_and_leaving_returns_to_the_one_that_has_the_focus(language_page):
    tab = language_page
    words = tab.locator(".words").first.locator(".t")
    words.nth(2).click()
    words.nth(5).hover()
    assert "token 6 of" in tab.inner_text("#inspector")
    tab.mouse.move(5, 5)
    assert "token 3 of" in tab.inner_text("#inspector")


def test_the_agreement_is_that_of_the_tokens(language_page, language):
    pairs = []
    for record in language["episodes"]:
        advantages = in_python(record, record["gamma"], 0.4, record["kl_coef"])["advantage"]
        for token, advantage in zip(record["tokens"], advantages.tolist(), strict=True):
            if token["true_advantage"] is not None:
                pairs.append([advantage, token["true_advantage"], token["true_advantage_se"]])
    both = torch.tensor(pairs, dtype=torch.float64).T
    move(language_page, "agreement-lam", 0.4)
    assert language_page.input_value("#lam") == "0.4"
    numbers = language_page.locator("#agreement-facts b").all_inner_texts()
    assert float(numbers[0]) == pytest.approx(float(torch.corrcoef(both[:2])[0, 1]), abs=6e-4)
    estimate, truth, error = both
    clear = truth.abs() > 2 * error
    right = (estimate * truth > 0)[clear].double().mean()
    assert numbers[1] == f"{float(right):.1%}"
    rmse = ((estimate - truth).square().mean() - error.square().mean()).sqrt()
    assert float(numbers[2]) == pytest.approx(float(rmse), abs=6e-4)
    assert int(numbers[4]) == len(pairs)


def test_lower_lambda_shows_another_histogram_and_its_printed_numbers(language_page, language):
    tab = language_page
    before = tab.inner_text("#ridges")
    tab.focus("#estimator-lam")
    tab.keyboard.press("Home")
    after = tab.inner_text("#ridges")
    least = next(m for m in language["estimators"][0]["methods"] if m["name"] == "gae(0)")
    assert "λ = 0\n" in after and before != after
    assert (
        f"bias {least['bias']:.3f} (exact)" in after
        and f"variance {least['variance']:.3f}" in after
    )
    task = tab.locator("#estimators select").first
    task.select_option("1")
    assert "20000 episodes" in tab.inner_text("#ridges")
    tab.select_option("#estimator-extra", "ppo, 4 steps")
    assert "ppo, 4 steps" in tab.inner_text("#ridges")
    assert tab.evaluate("document.activeElement.id") == "estimator-extra"


def test_text_from_models_is_shown_and_never_run(open_page, files, made):
    tab = open_page(files["hostile"])
    tab.locator("#filters select").nth(1).select_option("")
    tab.check("#side")
    tab.locator("#config summary").click()
    assert tab.evaluate("window.hurt") is None
    strange = tab.locator("main img, main script, main b:has(*), nav img")
    assert strange.count() == 0
    assert tab.locator("script").count() == 2
    seen = "<img src=x onerror='window.hurt=1'>"[:12]
    for part in ("h1", "#config", "#charts, #more-charts", ".t", "#inspector", "#episodes h3",
                 "#ridges", "#estimators select"):  # fmt: skip
        assert any(seen in text for text in tab.locator(part).all_text_contents()), part
    assert tab.title() == made.HOSTILE


@pytest.fixture
def complaining(browser, files):
    """The same page where a complaint is expected."""
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(files["language"].as_uri())
    yield tab
    context.close()


def test_injected_script_would_not_run_either(complaining):
    """The second wall: the page's own policy refuses whatever is not its own script."""
    refused = complaining.evaluate("""() => new Promise(resolve => {
      document.addEventListener('securitypolicyviolation', e => resolve(e.violatedDirective));
      window.hurt = 0;
      const node = document.createElement('img');
      node.setAttribute('onerror', 'window.hurt = 1');
      node.src = 'data:,';
      document.body.append(node);
      setTimeout(() => resolve('ran: ' + window.hurt), 1500);
    })""")
    assert refused.startswith("script-src")


@pytest.mark.parametrize("kind", ["language", "control", "hostile"])
@pytest.mark.parametrize("width", [400, 760, 1280])
def test_nothing_needs_scrolling_sideways(open_page, files, kind, width):
    tab = open_page(files[kind], viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def luminance(colour):
    channels = [int(x) / 255 for x in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_reader_and_a_button_turns_them(open_page, files, scheme):
    tab = open_page(files["language"], color_scheme=scheme)

    def colours(part):
        style = f"getComputedStyle(document.querySelector('{part}'))"
        return (luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor")),
                luminance(tab.evaluate(f"{style}.color")))  # fmt: skip

    for part in ("body", ".intro", "article header"):
        dark, light = sorted(colours(part))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    ground, ink = colours("body")
    assert (ground > ink) == (scheme == "light")
    tab.click("#theme")
    ground, ink = colours("body")
    assert (ground > ink) == (scheme == "dark")


@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_nothing_moves_by_itself(open_page, files, wish):
    tab = open_page(files["language"], reduced_motion=wish)
    move(tab, "lam", 0.3)
    assert tab.evaluate("document.getAnimations().length") == 0


def test_a_long_episode_has_a_line_and_a_cursor_that_keys_move(open_page, tmp_path, made):
    data = made.control_run(steps=500)
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    last = tab.locator("article").nth(3)
    assert last.locator(".t").count() == 500
    last.locator(".t").first.focus()
    cursor = last.locator(".strip svg").nth(1).locator(".cursor")
    before = float(cursor.get_attribute("x1"))
    tab.keyboard.press("PageDown")
    tab.keyboard.press("ArrowRight")
    assert "step 12 of 500" in tab.inner_text("#inspector")
    assert float(cursor.get_attribute("x1")) > before
    last.locator(".strip svg").first.click(position={"x": 300, "y": 8})
    assert "step 12 of" not in tab.inner_text("#inspector")
    assert tab.locator("#kl").count() == 0  # there is no reference here


@pytest.mark.parametrize("part", ["metrics", "episodes", "estimators"])
def test_a_run_without_a_part_still_has_a_page(open_page, tmp_path, made, part):
    data = {**made.language_run(iterations=10), part: []}
    if part == "episodes":
        data["agreement"] = None
    tab = open_page(page.write_page(tmp_path / "page.html", data))
    assert tab.locator("h1").inner_text() == data["title"]


def test_sections_without_data_are_not_there_nor_links_to_them(open_page, tmp_path, made):
    data = made.language_run(iterations=10)
    alone = {**data, "metrics": [], "episodes": [], "agreement": None}
    tab = open_page(page.write_page(tmp_path / "alone.html", alone))
    seen = {"overview": False, "tokens": False, "agreement": False, "estimators": True}
    for name, there in seen.items():
        assert tab.locator(f"#{name}").is_visible() is there, name
        assert tab.locator(f'nav a[href="#{name}"]').is_visible() is there, name
    task = data["estimators"][0]["task"]
    assert tab.locator(".lead").inner_text() == f"Estimates of the policy gradient: {task}."
