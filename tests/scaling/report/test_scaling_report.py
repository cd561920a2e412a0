"""Tests the report of complete and partial sweeps: figures, page and tables."""

import csv
import html.parser
import itertools
import json
import re
import xml.etree.ElementTree

import pytest
from matplotlib.image import imread

from tests.scaling.report.scaling_rows import MODELS, explode, make_row, make_rows
from wukong_jax.errors import UserError
from wukong_jax.reports.theme import DARK, LIGHT
from wukong_jax.scaling.report.analysis import analyse
from wukong_jax.scaling.report.axes import PARAMETERS, _spread_heights, choose_flops_axis
from wukong_jax.scaling.report.page import Section
from wukong_jax.scaling.report.pictures import (
    _style,
    draw_curves,
    draw_data_curves,
    list_css_colours,
    render_png,
    render_svg,
)
from wukong_jax.scaling.report.report import write_scaling_report
from wukong_jax.scaling.report.text import describe_point, format_flops, format_times

PICTURES = ("curve_flops.png", "curve_parameters.png", "curve_data.png")


class Page(html.parser.HTMLParser):
    """Parses a page as a browser would: texts, titles of points, tags, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags, self.fetched, self.ids, self.open = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        links = [attributes[key] for key in ("src", "srcset", "href", "xlink:href") if key in attributes]
        self.fetched += [link for link in links if not link.startswith("#")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []

    @property
    def text(self):
        return "\n".join(self.texts)


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def write_report(*arguments, **options):
    return write_scaling_report(*arguments, **{"reference": "Wukong", "baseline": "DLRM"} | options)


def results_of(rows):
    (results,) = analyse(rows, "Wukong", "DLRM", resamples=20)
    return results


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the report of two data sets, with notes and a section; one DLRM size lost a seed, one Wukong size all."""
    rows = make_rows() + make_rows({"Wukong": (2, *MODELS["Wukong"][1:])}, data="field aware")
    for i, row in enumerate(rows):
        if row["final"] and (row["model"], row["size"], row["data"]) == ("DLRM", "s1", "factorized"):
            rows[i] = explode(row, 1)
        if row["final"] and (row["model"], row["size"], row["data"]) == ("Wukong", "s4", "factorized"):
            rows[i] = explode(row, 3)
    section = Section(
        "Ablations", "Without <parts>.", [{"variant": "no FMB", "log_loss": 0.512345678, "seeds": [0, 1]}]
    )
    folder = tmp_path_factory.mktemp("report")
    page = write_report(
        rows, folder, "Curves & <b>more</b>", ["Generated data."], [section], missing_units=7, resamples=200
    )
    assert page == folder / "report.html"
    return rows, folder


def test_page_shows_everything_and_fetches_nothing(whole):
    page = Page((whole[1] / "report.html").read_text())
    for expected in (
        "Curves & <b>more</b>",  # as text, not as tags
        "This sweep has not finished: 7 runs are still missing.",
        "Generated data: factorized",
        "Generated data: field aware",
        "Lowest loss above Bayes: 0.02",
        "Bayes log loss, of the probabilities that labels were drawn from: 0.41000.",
        "1 of 3 seeds exploded",
        "3 of 3 seeds exploded",
        "layers = 2, head = [64, 32], norm = post",
        "Points along training, on validation rows (9)",
        "passes through its points",
        "Too few sizes for a law: FM.",
        "Compute to match Wukong, factorized",
        "not reached",
        "Ablations",
        "Without <parts>.",
        "0.512346",
        "[0, 1]",
    ):
        assert expected in page.text, expected
    assert page.fetched == []
    assert not {"script", "link", "iframe", "b", "parts", "img"} & set(page.tags)
    assert page.tags.count("svg") == 6
    assert len(set(page.ids)) == len(page.ids)  # also between pictures
    assert "nan" not in page.text.lower()


def test_each_drawn_point_says_its_whole_configuration(whole):
    rows, folder = whole
    text = (folder / "report.html").read_text()
    titles = [html.unescape(title) for title in re.findall(r'class="point"><title>(.*?)</title>', text, re.DOTALL)]
    final = [row for row in rows if row["final"]]
    # Final points in two pictures, and those with a loss in the third, with the ones along the pass.
    drawn = 2 * len(final) + sum(row["log_loss"] is not None for row in rows)
    assert len(titles) == drawn
    for row in rows:
        if row["final"] or row["log_loss"] is not None:
            assert describe_point(row) in titles
    words = describe_point(final[0])
    for expected in ("Wukong, s0", "50 kFLOP", "0.001", "0.02", "0.05", "post", "seeds 0, 1, 2: ", "layers = 2"):
        assert expected in words, expected
    for value in final[0]["log_loss_values"]:
        assert f"{value:.5f}" in words


def test_pictures_are_files_too(whole):
    for name in (*PICTURES, *(name.replace(".png", "_field_aware.png") for name in PICTURES)):
        assert imread(whole[1] / name).shape[0] > 400
    assert len(list(whole[1].glob("*.png"))) == 6


def test_tables_are_files_too(whole):
    rows, folder = whole
    points = read_csv(folder / "points.csv")
    assert len(points) == len(rows)
    assert json.loads(points[0]["options"]) == rows[0]["options"]
    assert json.loads(points[0]["log_loss_values"]) == rows[0]["log_loss_values"]
    assert (points[0]["final"], points[1]["final"]) == ("false", "true")
    exploded = next(point for point in points if point["exploded"] == "3")
    assert exploded["log_loss"] == ""
    fits = read_csv(folder / "fits.csv")
    law = next(
        fit for fit in fits if (fit["data"], fit["model"], fit["form"]) == ("factorized", "Wukong", "floor free")
    )
    assert float(law["exponent_low"]) < float(law["exponent"]) < float(law["exponent_high"])
    matches = read_csv(folder / "compute_to_match.csv")
    ours = [match for match in matches if (match["data"], match["model"]) == ("factorized", "DLRM")]
    assert [match["reference_size"] for match in ours] == ["s0", "s1", "s2", "s3", ""]
    assert ours[-1]["kind"] == "mean of measured"
    measured = [float(match["factor"]) for match in ours if match["kind"] == "measured"]
    product = 1.0
    for factor in measured:
        product *= factor
    assert float(ours[-1]["factor"]) == pytest.approx(product ** (1 / len(measured)))


def test_report_of_no_point_yet(tmp_path):
    (tmp_path / "curve_flops.png").write_bytes(b"of an earlier sweep")
    page = Page(write_report([], tmp_path, "Begun", missing_units=1).read_text())
    assert "1 run is still missing" in page.text
    assert "No points yet." in page.text
    assert read_csv(tmp_path / "points.csv") == []


def test_report_of_a_sweep_under_way(tmp_path):
    (tmp_path / "curve_flops.png").write_bytes(b"of an earlier sweep")
    rows = make_rows({"Wukong": (1, *MODELS["Wukong"][1:])}, passes=(0.25, 0.5), seeds=1)
    rows[0]["missing_seeds"] = 2
    page = Page(write_report(rows, tmp_path, "Under way").read_text())
    assert "2 still to run" in page.text
    assert "not at the end of training yet: Wukong s0" in page.text
    assert "No size has come to the end of training." in page.text
    assert page.text.count("No point for this picture yet.") == 2
    assert [path.name for path in tmp_path.glob("*.png")] == ["curve_data.png"]


def test_report_of_one_model_one_seed_and_no_bayes_loss(tmp_path):
    rows = make_rows({"Wukong": MODELS["Wukong"]}, bayes=None, seeds=1, data="Frappe", passes=(1.0,))
    page = Page(write_report(rows, tmp_path, "Frappe").read_text())
    assert "Data: Frappe" in page.text
    assert "enerated" not in page.text
    assert "Bars:" not in page.text
    assert "This needs final points of Wukong and of another model." in page.text
    assert "±" not in page.text


def test_report_says_what_it_cannot_draw(tmp_path):
    rows = make_rows(passes=(1.0,))
    lost = explode(rows[0], 3) | {"train_flops_per_example": None, "parameters": None, "examples_seen": None}
    failed = {**lost, "model": "xDeepFM", "exploded": 0, "errors": ["out of memory"]}
    below = make_row("factorized", "AutoInt+", "s0", 0.1, 1.0, [-0.001, -0.002], 0.41)
    page = Page(write_report([lost, failed, below, *rows[1:]], tmp_path, "Odd", resamples=20).read_text())
    assert "Wukong s0 (3 of 3 seeds exploded)" in page.text
    assert "xDeepFM s0 (failed: out of memory)" in page.text
    assert "AutoInt+ s0 (at the Bayes loss or below: -0.00150)" in page.text


def test_points_of_unequal_passes_are_not_passed_over_in_silence(tmp_path):
    rows = make_rows(passes=(1.0,))
    rows[0]["examples_seen"] = 1_000_000
    page = Page(write_report(rows, tmp_path, "Unequal", resamples=20).read_text())
    assert "did not see equally many examples (1,000,000 to 4,000,000)" in page.text


def test_report_refuses_rows_of_something_else(tmp_path):
    with pytest.raises(UserError, match=r"points\.json"):
        write_report([{"model": "Wukong"}], tmp_path, "x")


def draw_all(results):
    flops = choose_flops_axis(row for rows in results.final.values() for row in rows)
    yield draw_curves("flops", results, flops, "Wukong", describe_point)
    yield draw_curves("parameters", results, PARAMETERS, "Wukong", describe_point)
    yield draw_data_curves("data", results, "Wukong", describe_point)


def test_pictures_depend_on_the_data_alone():
    results = results_of(make_rows({"Wukong": (2, *MODELS["Wukong"][1:])}))
    for one, other in zip(draw_all(results), draw_all(results), strict=True):
        assert render_png(one) == render_png(other)
        assert render_svg(one, "a") == render_svg(other, "a")


def test_svg_is_well_formed_and_wears_the_pages_colours():
    for drawing in draw_all(results_of(make_rows())):
        text = render_svg(drawing, 'loss "and" <more>')
        element = xml.etree.ElementTree.fromstring(text.replace("xlink:href", "href"))
        assert element.get("aria-label") == 'loss "and" <more>'
        assert not re.findall(r"#[0-9a-f]{6}\b", text)  # all are variables
        titles = [title.text for title in element.iter("title")]
        assert titles == list(drawing.words.values())
        used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))
        assert used <= {node.get("id") for node in element.iter()}


def test_a_points_words_stay_words():
    rows = make_rows({"Wukong": (1, *MODELS["Wukong"][1:])}, passes=(1.0,))
    rows[0]["options"] = {"note": '<g id="x"> #0072b2 href="#y"', "cost": "$5"}
    rows[0]["model"] = "Wukong $\\frac$"
    drawing = draw_curves("flops", results_of(rows), PARAMETERS, "Wukong", describe_point)
    element = xml.etree.ElementTree.fromstring(render_svg(drawing, "x").replace("xlink:href", "href"))
    (title,) = [title.text for title in element.iter("title")]
    assert title == describe_point(rows[0])


def test_exploded_sizes_and_the_bayes_loss_are_drawn():
    rows = make_rows(passes=(1.0,))
    plain = results_of(rows)
    some = results_of([explode(rows[0], 1), *rows[1:]])
    lost = results_of([explode(rows[0], 3), *rows[1:]])
    drawn = {name: next(draw_all(results)) for name, results in (("plain", plain), ("some", some), ("lost", lost))}
    svg = {name: render_svg(drawing, "x") for name, drawing in drawn.items()}
    assert "some seeds exploded" in svg["some"]
    assert "no seed left" in svg["lost"]
    assert "exploded" not in re.sub("<title>.*?</title>", "", svg["plain"], flags=re.DOTALL)
    assert len(drawn["lost"].words) == len(drawn["plain"].words)  # the lost size still says what it is
    assert "the Bayes loss, infinitely far down" in svg["plain"]
    absolute = results_of([{**row, "excess_log_loss": None} for row in rows])
    assert absolute.loss == "log_loss"
    drawing = next(draw_all(absolute))
    assert "Bayes loss" in render_svg(drawing, "x")
    low, high = drawing.figure.axes[0].get_ylim()
    assert low < 0.41 < high


def test_colours_are_one_each_and_stand_out_in_both_themes():
    colours = list_css_colours()
    assert len({light for _, light, _ in colours}) == len(colours)

    def luminance(colour):
        levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [level / 12.92 if level <= 0.03928 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for _, light, dark in colours[4:]:  # the data's; 3 is what WCAG 2 asks of graphics (1.4.11)
        assert contrast(light, LIGHT.background) >= 3
        assert contrast(dark, DARK.background) >= 3


def test_models_differ_without_colour():
    looks = [(style["marker"], str(style["linestyle"])) for style in map(_style, range(24))]
    assert len(set(looks)) == len(looks)
    assert len({marker for marker, _ in looks[:12]}) == 12


@pytest.mark.parametrize(
    ("wanted", "gap"),
    [
        ([0.5], 0.05),
        ([0.1, 0.5, 0.9], 0.05),
        ([0.5] * 11, 0.052),
        ([0.0, 0.0, 0.02, 0.98, 1.0], 0.1),
        ([1.2, 1.3], 0.1),
    ],
)
def test_names_beside_the_lines_do_not_overlap(wanted, gap):
    heights = _spread_heights(wanted, gap)
    assert all(0 <= height <= 1 for height in heights)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(heights))
    if wanted in ([0.5], [0.1, 0.5, 0.9]):
        assert heights == pytest.approx(wanted)  # nothing moves without need


def test_numbers_as_text():
    assert [format_flops(value) for value in (950, 1.5e3, 2.5e6, 3e9, None)] == [
        "950 FLOP",
        "1.5 kFLOP",
        "2.5 MFLOP",
        "3 GFLOP",
        "unknown FLOPs",
    ]
    times = "\N{MULTIPLICATION SIGN}"
    assert [format_times(value) for value in (0.123, 3.21, 42.4, 1234.0, 1e6, float("inf"))] == [
        f"0.12{times}",
        f"3.2{times}",
        f"42{times}",
        f"1,234{times}",
        f"over 10,000{times}",
        "\N{INFINITY}",
    ]


def test_levels_are_drawn_across_and_not_at_a_place(tmp_path):
    rows = [*make_rows(), make_row("factorized", "product", "only", 0.0, 1.0, [0.2, 0.21], 0.41)]
    page = Page(write_report(rows, tmp_path, "Levels", resamples=20).read_text())
    assert "without a place on the axes" not in page.text
    results = results_of(rows)
    for axis in (choose_flops_axis(rows), PARAMETERS):
        drawing = draw_curves("curve", results, axis, "Wukong", describe_point)
        axes = drawing.figure.axes[0]
        across = [line for line in axes.lines if list(line.get_xdata()) == [0, 1]]
        assert [line.get_ydata()[0] for line in across] == [pytest.approx(0.205)]
        low, high = axes.get_ylim()
        assert low < 0.205 < high
        assert any(words.startswith("product, only") for words in drawing.words.values())


def test_a_reference_of_one_size_is_compared_with_and_not_matched(tmp_path):
    base = make_row("factorized", "base", "m", 1.0, 1.0, [0.2, 0.22, 0.24], 0.41)
    better = make_row("factorized", "better", "m", 1.5, 1.0, [0.19, 0.2, 0.21], 0.41)
    lost = make_row("factorized", "lost", "m", 1.0, 1.0, [], 0.41)
    page = Page(write_report([base, better, lost], tmp_path, "Parts", reference="base", baseline="").read_text())
    assert "Against base" in page.text
    assert "Compute to match" not in page.text
    (row,) = read_csv(tmp_path / "differences.csv")
    assert (row["reference"], row["model"], row["seeds"]) == ("base", "better", "3")
    assert float(row["cost"]) == pytest.approx(1.5)
    assert float(row["difference"]) == pytest.approx(-0.02)
    assert float(row["difference_std"]) == pytest.approx(0.01)
    assert read_csv(tmp_path / "compute_to_match.csv") == []


def test_without_a_reference_nothing_is_matched(tmp_path):
    page = Page(write_report(make_rows(), tmp_path, "Alone", reference="", baseline="", resamples=20).read_text())
    assert "Compute to match" not in page.text
    assert {fit["form"] for fit in read_csv(tmp_path / "fits.csv")} == {"floor free", "floor at Bayes"}
