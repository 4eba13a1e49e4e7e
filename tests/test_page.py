"""The page of the report: one scale for all metrics, whole by itself, and legible to more than eyes."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.commands import report
from experiments.commands.reproduce import value
from experiments.page import compare, document, drawing

ROOT = Path(__file__).parent.parent
EMPTY = {"meta", "img", "br", "link", "input"}


def result(metric="accuracy", mean=0.95, std=0.01, value=0.9, higher=True, test=({},)):
    published = value is not None and {
        "metric": metric, "value": value, "higher_is_better": higher, "source": "a <paper> & co"
    }  # fmt: skip
    return {"metric": metric, "mean": mean, "std": std, "published": published or None, "test": list(test)}


@pytest.mark.parametrize(
    "found, times, of",
    [
        (result(), 2.0, "error"),  # 5 % wrong where 10 % were published
        (result(mean=0.8), 0.5, "error"),
        (result("loss", 1.0, 0.1, 2.0, False), 2.0, "error"),
        (result("rmse", 4.0, 0.1, 2.0, False), 0.5, "error"),
        (result("bleu", 40.0, 1.0, 20.0), 2.0, "score"),
        (result("elbo", -100.0, 1.0, -200.0), 2.0, "error"),  # a log-likelihood
        (result("skill", 0.5, 0.1, None), 2.0, "error"),  # half the error of the naive forecast
        (result("skill", -1.0, 0.1, None), 0.5, "error"),
    ],
)
def test_right_of_one_is_better_whatever_the_metric(found, times, of):
    ratio = compare.ratio(found)
    assert ratio.middle == pytest.approx(times) and ratio.of == of
    assert ratio.low < ratio.middle < ratio.high


def test_a_perfect_score_and_a_deviation_beyond_it_stay_on_the_axis():
    ratio = compare.ratio(result(mean=1.0, std=0.02))
    assert ratio.middle == math.inf and ratio.low == pytest.approx(5.0)
    text = drawing.track(ratio, "better", drawing.spans([ratio.middle, 2.0]), "perfect")
    assert "inf" not in text and "nan" not in text and 'x="96.00%"' in text


def test_without_a_published_value_the_best_peer_of_the_same_run_counts():
    tests = [{"rmse": 1.0, "rmse_linear": 3.0, "rmse_gradient_boosting": 2.0},
             {"rmse": 1.0, "rmse_linear": 1.0, "rmse_gradient_boosting": 3.0}]  # fmt: skip
    found = compare.reference(result("rmse", 1.0, 0.0, None, test=tests))
    assert (found.value, found.higher, found.published) == (2.0, False, False) and "linear" in found.source
    found = compare.reference(
        result(
            "roc_auc",
            0.5,
            0.0,
            None,
            test=[{"roc_auc_linear": 0.6, "roc_auc_pca": 0.7, "roc_auc_macro": 0.9}],
        )
    )
    assert found.value == 0.7 and found.higher
    assert compare.reference(result("error", 0.1, 0.0, None, test=[{"error": 0.1}])) is None


@pytest.mark.parametrize(
    "mean, std, peer, said",
    [
        (0.9, 0.05, 0.8, "ahead by 2.0 sd"),
        (0.9, 0.05, 0.86, "even"),
        (0.7, 0.01, 0.9, "behind by 20 sd"),
        (0.9, 1e-6, 0.8, "ahead by >99 sd"),
        (0.9, None, 0.8, "ahead"),
        (0.9, 0.05, None, "baseline"),
    ],
)
def test_a_result_without_a_published_value_stands_ahead_of_its_best_peer_or_behind(mean, std, peer, said):
    test = {"accuracy": mean} | ({} if peer is None else {"accuracy_linear": peer, "accuracy_pca": 0.1})
    found = result(mean=mean, std=std, value=None, test=[test]) | {"verdict": "baseline"}
    assert compare.standing(found) == said


@pytest.mark.parametrize("metric", ["rmse", "squared_error", "log10_loss", "bits_per_byte"])
def test_of_an_error_less_is_ahead(metric):
    found = result(metric, 1.0, 0.5, None, test=[{f"{metric}_linear": 3.0}]) | {"verdict": "baseline"}
    assert compare.standing(found) == "ahead by 4.0 sd"


def test_beside_a_published_value_the_verdict_is_that_of_reproduce():
    assert compare.standing(result() | {"verdict": "better"}) == "better by 5.0 sd"


def test_a_config_comes_before_its_variants_and_those_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for stem in ("m-96", "m-720", "m", "m-contaminated", "m2", "k"):
        (tmp_path / "a" / f"{stem}.json").touch()
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert [file.stem for file in report.results()] == ["k", "m", "m-96", "m-720", "m-contaminated", "m2"]


def test_a_band_is_of_the_steps_that_all_seeds_have():
    points = drawing.band([[[1, 0.0], [2, 1.0], [3, 5.0]], [[1, 2.0], [2, 1.0]]])
    assert points == [(1, 1.0, pytest.approx(math.sqrt(2))), (2, 1.0, 0.0)]


def test_large_numbers_are_said_in_few_letters():
    said = [document.amount(value) for value in (0.988, 36.0, 1364.2, 48_744, 5_734_987)]
    assert said == ["0.988", "36", "1,364", "48.7k", "5.73M"]


def test_round_numbers_lie_within():
    for low, high in ((0.37, 0.41), (-3, 12), (0, 15_000), (0.9, 0.9)):
        found = drawing.steps(low, high)
        assert 1 <= len(found) <= 7 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)


class Checked(HTMLParser):
    """Follows the tags of a page, and keeps what is asked of them."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of this repository's results, with a run whose demo drew figures, and its runs' folder."""
    from PIL import Image

    runs = tmp_path_factory.mktemp("runs")
    workdir = runs / "reproduce" / "translation" / "transformer" / "0"
    (workdir / "figures").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"experiment": "translation"}))
    noise = np.random.default_rng(0).integers(0, 255, (300, 2000, 3), np.uint8)
    for name in ("curves", "alignment"):
        Image.fromarray(noise).save(workdir / "figures" / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        text = document.document(runs)
    read = Checked()
    read.feed(text)
    assert not read.open
    return text, read, runs


def test_the_page_needs_nothing_else_and_is_small(page):
    text, read, _ = page
    assert len(text.encode()) < 2_000_000
    for tag, attributes in read.found:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes[name][:80])
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:[^\"]*", "", text))


def test_everything_drawn_is_said_in_words(page):
    _, read, _ = page
    pictures = [attributes for tag, attributes in read.found if tag == "img"]
    assert pictures and all(len(attributes["alt"]) > 10 for attributes in pictures)
    for tag, attributes in read.found:
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in read.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_result_and_its_source_are_on_the_page(page):
    _, read, _ = page
    said = "".join(read.text)
    for file in sorted(ROOT.glob("experiments/results/*/*.json")):
        found = json.loads(file.read_text())
        if file.parent.name != "speed":
            assert file.stem.replace("_", " ") in said
            assert "rows" in found or value(found) in said  # to the digits that README has
            if found["published"]:
                assert found["published"]["source"] in said
        else:
            for row in found["rows"]:  # hardware may stand between a model and the measure
                assert all(part in said for part in row["what"].rpartition(", "))


def test_a_demo_is_shown_once_smaller_and_without_its_curves(page):
    _, read, _ = page
    drawn = [a for tag, a in read.found if tag == "img" and a["alt"].startswith("translation, transformer")]
    assert [a["alt"] for a in drawn] == ["translation, transformer: alignment, drawn by demo"]
    assert int(drawn[0]["width"]) == document.SIDE and int(drawn[0]["height"]) == 144


def test_pictures_beyond_the_size_of_a_page_are_left_out_and_counted(page):
    file = page[2] / "reproduce/translation/transformer/0/figures/alignment.png"
    found = [("translation", "transformer", file)] * 2
    one = len(document.pictures(found[:1], 10**9))
    assert "1 more are left out" in document.pictures(found, one) and document.pictures([], 0) == ""
    assert document.pictures(found, one).count("<img") == 1


def test_a_picture_belongs_to_the_longest_name_that_begins_it(tmp_path):
    for name in (
        "tuning.json",
        "tuning_signs.json",
        "tuning.png",
        "tuning_signs.png",
        "tuning_signs_paths.png",
    ):
        (tmp_path / name).touch()
    assert [f.name for f in document.beside(tmp_path / "tuning.json")] == ["tuning.png"]
    signs = document.beside(tmp_path / "tuning_signs.json")
    assert [f.name for f in signs] == ["tuning_signs.png", "tuning_signs_paths.png"]


def test_the_colours_can_be_read():
    """Contrast of text and marks to what lies behind, of WCAG 2: 4.5 for text, 3 for marks and lines."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    style = (ROOT / "experiments/page/style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media", 2)[:2])
    for theme in (light, dark):
        for name in ("ink", "quiet", "better", "matched", "missed", "baseline"):
            for behind in ("paper", "card"):
                first, second = sorted((luminance(theme[name]), luminance(theme[behind])))
                assert (second + 0.05) / (first + 0.05) >= 4.5, (name, behind)


def test_the_command_writes_the_page_and_leaves_it_when_it_only_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "best", list)  # the plot of the repository stays as it is
    there = tmp_path / "deep" / "page.html"
    where = [f"--html={there}", f"--runs={tmp_path}"]
    assert main(["report", "--check", *where]) == 1 and not there.exists()
    assert main(["report", *where]) == 0 and there.read_text().startswith("<!doctype html>")
    assert str(there) in capsys.readouterr().out
