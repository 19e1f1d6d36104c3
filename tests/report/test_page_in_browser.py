"""The report page in a real browser: it draws, search finds, modules open, colours change, nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.html_report import Peaks, html_page
from graphopt.html_report.measured import measure
from graphopt.passmanager import Provenance
from tests.report.browser import Browser
from tests.report.reports import report_of, transformer

pytestmark = [pytest.mark.browser, pytest.mark.unchecked_passes]

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>"
READY_LIMIT = 2000.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as page:
        yield page


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """No test may leave a word in the console, or ask for anything but its own file."""
    yield
    found, asked = list(browser.errors), [url for url in browser.requests if not url.startswith(("file:", "data:"))]
    browser.errors.clear()
    browser.requests.clear()
    assert not found and not asked


def written(path: Path, nodes: int) -> Path:
    report_of(transformer(nodes)).save(path)
    return path


def state(browser: Browser, script: str, view: int = 1) -> object:
    return browser.run(f"(({{tree, scene, camera, graph}}) => {script})(graphoptReport.views[{view}])")


def point(browser: Browser, label: str, view: int = 1) -> tuple[float, float]:
    """Where the first visible box of that label is in the window."""
    browser.run('document.getElementById("graph").scrollIntoView({behavior: "instant"})')
    found = browser.run(
        f"""(() => {{
            const view = graphoptReport.views[{view}];
            const visit = (item) => item.children.map((c) => c.label === {label!r} ? c : c.expanded ? visit(c) : null)
                .find(Boolean);
            const item = visit(view.tree.root), box = view.canvas.getBoundingClientRect();
            const {{x, y, scale}} = view.camera;
            return [box.left + x + (item.x + 20) * scale, box.top + y + (item.y + 12) * scale];
        }})()"""
    )
    return found[0], found[1]


def pixels(browser: Browser, view: int = 1) -> str:
    browser.frame()
    return browser.run(f"graphoptReport.views[{view}].canvas.toDataURL()")


@pytest.mark.parametrize("nodes", [100, 10_000])
def test_opens_quickly_and_draws_what_is_in_sight(browser: Browser, tmp_path: Path, nodes: int) -> None:
    ready = browser.open(written(tmp_path / "report.html", nodes))
    print(f"{nodes} nodes: ready after {ready:.0f} ms")
    assert ready < READY_LIMIT
    assert state(browser, "graph.count", 0) == nodes
    drawn = browser.run("graphoptReport.views[0].drawn")
    assert 3 <= drawn <= 150
    assert len(set(browser.run("graphoptReport.views.map((view) => view.canvas.toDataURL())"))) == 2


def test_everything_open_at_ten_thousand_nodes(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path / "report.html", 10_000))
    browser.run('document.getElementById("graph").scrollIntoView({behavior: "instant"})')
    spent = browser.run(
        "(() => { const start = performance.now(); [...document.querySelectorAll('.toolbar button')]"
        ".find((b) => b.textContent === 'Open all').click(); return performance.now() - start; })()"
    )
    browser.frame()
    print(f"open all: {spent:.0f} ms")
    assert browser.run("graphoptReport.views[0].shown") > 10_000
    assert browser.run("graphoptReport.views[0].drawn") < 500
    # Nothing overlaps: boxes of one group are apart.
    assert (
        state(
            browser,
            """(() => { let clashes = 0;
        const visit = (group) => group.children.forEach((a, i) => {
            group.children.slice(i + 1).forEach((b) => {
                if (a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h) clashes += 1; });
            if (a.x < group.x || a.x + a.w > group.x + group.w || a.y + a.h > group.y + group.h) clashes += 1;
            if (a.expanded) visit(a); });
        visit(tree.root); return clashes; })()""",
        )
        == 0
    )


def test_what_was_pruned_is_drawn(browser: Browser, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    small = graphopt.prune(model, (torch.ones(1, 8),), ratio=0.75, sweep=(0.5,))
    small.report.save(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    shown = browser.run("[...document.querySelectorAll('#pruning .width')].map((row) => row.textContent)")
    assert shown == ["0.weight32 → 8", "2.weight16 → 4"]
    bars = browser.run("[...document.querySelectorAll('#pruning .after')].map((bar) => +bar.getAttribute('width'))")
    assert bars[0] == 2 * bars[1]
    assert browser.run("document.querySelectorAll('#pruning polyline').length") == 2
    refused = browser.run("document.querySelector('#pruning tbody').textContent")
    assert "4.weight" in refused and "output 0" in refused


def test_what_was_quantized_is_drawn(browser: Browser, tmp_path: Path) -> None:
    """A histogram with its clip for each layer, bars as long as the ratios, and the choices, one taken."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
        x = torch.randn(32, 8)
    small = graphopt.quantize_search(model, (x,), calibration=[x], bops=0.05, formats=("int8", "int4"))
    report = small.report.quantization
    small.report.save(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    assert browser.run("[...document.querySelectorAll('nav a')].map((a) => a.textContent)").count("Quantization") == 1
    layers = browser.run("[...document.querySelectorAll('#quantization tr.layer')].map((row) => row.textContent)")
    assert [report.layers[i].name in text and report.layers[i].format in text for i, text in enumerate(layers)] == [
        True
    ] * 2
    bars = browser.run(
        "[...document.querySelectorAll('#quantization .histogram')].map((h) => h.querySelectorAll('rect').length)"
    )
    assert bars == [sum(map(bool, layer.histogram.counts)) for layer in report.layers if layer.histogram is not None]
    assert browser.run("document.querySelectorAll('#quantization .histogram .clip').length") == 4
    widths = browser.run(
        "[...document.querySelectorAll('#quantization .decibels rect')].map((r) => +r.getAttribute('width'))"
    )
    ratios = [ratio for layer in report.layers for ratio in (layer.own, layer.accumulated)]
    assert [width / widths[0] for width in widths] == pytest.approx([ratio / ratios[0] for ratio in ratios])
    fused = browser.run("document.querySelector('#quantization .fused summary').textContent")
    assert report.fused is not None and fused == f"onnxruntime fused {report.fused.fused} of {report.fused.pairs} pairs"
    assert report.search is not None
    points = browser.run("[...document.querySelectorAll('#quantization tr.point')].map((row) => row.textContent)")
    assert len(points) == len(report.search.points) and sum("chosen" in text for text in points) == 1
    assert browser.run("document.querySelectorAll('#quantization .frontier .dot').length") == len(points)


def test_search_finds_a_node_and_goes_there(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path / "report.html", 1000))
    browser.run('document.querySelector(".search input").focus()')
    browser.type("layers.7.attention softmax")
    assert browser.run('document.querySelector(".search .count").textContent') == "1"
    assert browser.run('document.querySelector(".results li code").textContent') == "%b7.p"
    browser.press("Enter")
    assert state(browser, "graph.name(scene.selected.node)") == "b7.p"
    assert state(browser, "scene.selected.box === scene.selected") is True
    shown = browser.run('document.querySelector(".details").textContent')
    assert "net.py:25" in shown and "layers.7.attention" in shown and "f32[8, 8]" in shown
    # The same node in the other graph.
    browser.run("[...document.querySelectorAll('.details button')].at(-1).click()")
    assert state(browser, "graph.name(scene.selected.node)", 0) == "b7.p"
    browser.run('document.querySelector(".search input").focus()')
    browser.press("Escape")
    assert state(browser, "scene.hits.size") == 0


def test_modules_open_and_close_by_click(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path / "report.html", 1000))
    before = browser.run("graphoptReport.views[1].shown")
    x, y = point(browser, "layers.1")
    browser.click(x, y)
    opened = browser.run("graphoptReport.views[1].shown")
    assert opened > before
    moved = point(browser, "layers.1")
    assert moved == pytest.approx((x, y), abs=1)  # it stays under the mouse
    browser.click(*moved)
    assert browser.run("graphoptReport.views[1].shown") == before
    assert "Costliest nodes" in browser.run('document.querySelector(".details").textContent')


def test_zoom_pan_and_fit(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path / "report.html", 100))
    x, y = point(browser, "layers.1")
    scale = state(browser, "camera.scale")
    browser.wheel(x, y, -300)
    assert state(browser, "camera.scale") > scale
    assert point(browser, "layers.1") != (x, y)
    before = state(browser, "camera.x")
    browser.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + 50, y=y, button="left", buttons=1)
    browser.send("Input.dispatchMouseEvent", type="mouseReleased", x=x + 50, y=y, button="left", clickCount=1)
    assert state(browser, "camera.x") == pytest.approx(before + 50)
    browser.run("graphoptReport.views[1].fitAll()")
    assert state(browser, "tree.root.h * camera.scale <= 900") is True


def test_colours_and_themes_change_the_picture(browser: Browser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(2, 8)
    fast = graphopt.compile(model, (x,), target="eager", instruments=[Provenance()])
    measure(fast, model, (x,), rounds=1, peaks=Peaks(1e11, 1e10))
    fast.report.save(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    modes = browser.run('[...document.getElementById("colour").options].map((option) => option.value)')
    assert {"operator", "flops", "bytes", "seconds", "error", "local", "device"} <= set(modes)
    seen = set()
    for mode in modes:
        browser.run(
            f"""(() => {{ const colour = document.getElementById("colour"); colour.value = "{mode}";
            colour.dispatchEvent(new Event("change")); }})()"""
        )
        seen.add(pixels(browser))
        assert browser.run('document.querySelector(".legend").textContent')
    assert len(seen) >= 4
    light = pixels(browser)
    browser.run('document.getElementById("theme").click()')
    assert browser.run("document.documentElement.dataset.theme") == "dark" and pixels(browser) != light
    # Both plots are there.
    assert browser.run('document.querySelectorAll("#summary .bar").length') >= 3
    assert browser.run('document.querySelectorAll("#roofline .dot").length') >= 2


def test_passes_open_to_their_diffs(browser: Browser, tmp_path: Path) -> None:
    browser.open(written(tmp_path / "report.html", 100))
    browser.run('document.querySelector("tr.opens").click()')
    shown = browser.run('document.querySelector("tr.inner:not([hidden])").textContent')
    assert "- %b0.e" in shown and "add-zero" in shown
    assert browser.run('document.querySelectorAll(".diff .removed").length') > 0
    browser.run('document.querySelector("tr.opens").click()')
    assert browser.run('document.querySelectorAll("tr.inner:not([hidden])").length') == 0


def test_names_are_text_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    graph = transformer(20)
    graph.name = SCRIPT
    graph.nodes[0].result.name = SCRIPT
    report = report_of(graph, SCRIPT)
    report.passes.notes.append(SCRIPT)
    report.passes.records[0].notes.append(SCRIPT)
    report.passes.records[0].reason = SCRIPT
    report.save(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    browser.run("document.querySelectorAll('tr.opens').forEach((row) => row.click()); graphoptReport.goTo(0)")
    browser.frame()
    assert browser.run("window.hacked ?? 0") == 0
    assert browser.run('document.querySelector("h1").textContent') == SCRIPT
    assert browser.run("document.title").startswith("<script>")
    assert browser.run('document.querySelectorAll("img").length') == 0


def test_a_report_without_graphs_or_passes_is_shown(browser: Browser, tmp_path: Path) -> None:
    record = {"passes": [], "pipeline": "", "notes": [], "validate": "off", "before": None, "after": None}
    (tmp_path / "report.html").write_text(html_page({"format": 1, "target": "fx", "passes": record}))
    browser.open(tmp_path / "report.html")
    text = browser.run("document.body.textContent")
    assert "No passes were run" in text and "holds no graphs" in text


def test_a_loaded_model_shows_how_it_was_compiled(browser: Browser, tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 4)).eval(), torch.randn(2, 8)
    graphopt.compile(model, (x,), target="eager").save(tmp_path / "model.gopt")
    graphopt.load(tmp_path / "model.gopt").report.save(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    text = browser.run("document.body.textContent")
    assert "canonicalize" in text and "loaded; compiled by graphopt" in text
    assert state(browser, "graph.count", 0) == 3 and state(browser, "graph.count", 1) == 2
    assert browser.run('document.querySelectorAll("#roofline .dot").length') > 0
