// The page, put together.

const report = readReport();
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
let redrawGraphs = () => {};

function setTheme(isDark) {
  root.dataset.theme = isDark ? "dark" : "light";
  readTheme();
  redrawGraphs();
}

setTheme(dark.matches);
dark.addEventListener("change", () => setTheme(dark.matches));
header(report, () => setTheme(root.dataset.theme === "light"));

const errors = errorsByName(report);
const views = ["before", "after"]
  .filter((name) => report.graphs?.[name])
  .map((name) => {
    const title = name === "before" ? "Before" : "After";
    return new GraphView(title, new GraphFacts(report.graphs[name], errors), { onSelect: (view, item) => chosen(view, item) });
  });
if (views.length === 2) [views[0].other, views[1].other] = [views[1], views[0]];
const after = views.at(-1);
let active = after;
const details = new Details();
details.onOther = (view, node) => jump(view, node);

function chosen(view, item) {
  active = view;
  for (const other of views) if (other !== view) other.select(null);
  details.show(view, item);
}

function jump(view, node) {
  if (view.element.hidden) sides.choose(view.title.toLowerCase());
  active = view;
  view.resize();
  view.goTo(node);
  document.getElementById("graph").scrollIntoView({ block: "nearest" });
}

const sides = segmented("Which graph", [["before", "Before"], ["both", "Both"], ["after", "After"]], "both", showSides);

function showSides(which) {
  for (const view of views) view.element.hidden = which !== "both" && view.title.toLowerCase() !== which;
  if (active?.element.hidden) active = views.find((view) => !view.element.hidden);
}

function modesAtHand() {
  const facts = after.graph.facts;
  const absent = {
    seconds: !facts.seconds,
    error: !errors.size,
    local: !errors.size,
    rewritten: facts.tables.rules.length < 2 && !facts.tables.rules[0],
  };
  return Object.entries(MODES).filter(([mode]) => !absent[mode]);
}

function graphSection() {
  if (!views.length) return section("graph", "Graph", el("p", { class: "empty" }, "This report holds no graphs."));
  const legend = el("div", { class: "legend" });
  const setColour = (mode) => {
    for (const view of views) view.colour(mode);
    legend.replaceChildren(...after.scene.colouring.legend());
  };
  const colours = el(
    "select",
    { id: "colour", "aria-label": "Colour by", onchange: () => setColour(colours.value) },
    modesAtHand().map(([mode, text]) => el("option", { value: mode }, text)),
  );
  const search = new Search(views, () => active, (view, node) => view.goTo(node));
  const button = (text, label, act) => el("button", { type: "button", title: label, "aria-label": label, onclick: act }, text);
  const each = (act) => () => views.filter((view) => !view.element.hidden).forEach(act);
  const board = el("div", { class: "board" }, el("div", { class: "views" }, views.map((view) => view.element)), details.element);
  const whole = el("div", { class: "graph-box" },
    el(
      "div",
      { class: "toolbar" },
      search.element,
      el("label", {}, "Colour ", colours),
      views.length > 1 ? sides : null,
      el(
        "div",
        { class: "segmented" },
        button("Open all", "Open every module", each((view) => view.setAll(true))),
        button("Close all", "Close every module", each((view) => view.setAll(false))),
        button("+", "Zoom in", each((view) => view.zoom(1.25))),
        button("−", "Zoom out", each((view) => view.zoom(0.8))),
        button("Fit", "Show everything", each((view) => view.fitAll())),
        button("Full screen", "Full screen", () => (document.fullscreenElement ? document.exitFullscreen() : whole.requestFullscreen())),
      ),
    ),
    board,
    legend,
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      search.input.focus();
    }
  });
  setColour("operator");
  redrawGraphs = () => setColour(colours.value);
  return section("graph", "Graph", whole);
}

const main = document.getElementById("main");
main.append(...[summary(report), passes(report), pruning(report), quantization(report), graphSection()].filter(Boolean));
if (after) main.append(section("roofline", "Roofline", roofline(report, after.graph, (node) => jump(after, node))));
main.append(rules(report), el("footer", {}, `graphopt ${report.graphopt ?? ""} · torch ${report.torch ?? ""}`));
if (views.length > 1 && innerWidth < 1000) sides.choose("after");
for (const view of views) view.resize();

// For tests and for whoever opens the console.
window.graphoptReport = { report, views, goTo: (node) => jump(active, node) };
requestAnimationFrame(() =>
  requestAnimationFrame(() => {
    root.dataset.ready = performance.now().toFixed(0);
    document.dispatchEvent(new Event("graphopt-ready"));
  }),
);
