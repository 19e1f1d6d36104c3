// The top of the page: what came out, in five numbers, and what was said along the way.

function header(report, onTheme) {
  const engine = report.engine && report.engine !== report.target ? ` (${report.engine})` : "";
  const links = [
    ["summary", "Summary"],
    ["passes", "Passes"],
    ...(report.pruning ? [["pruning", "Pruning"]] : []),
    ...(report.quantization ? [["quantization", "Quantization"]] : []),
    ["graph", "Graph"],
    ["roofline", "Roofline"],
    ["rules", "Rules"],
  ];
  document.getElementById("top").append(
    el(
      "div",
      { class: "bar-inner" },
      el("div", { class: "brand" }, logo(), el("h1", {}, report.model || "model"), el("span", { class: "pill" }, `${report.target ?? ""}${engine}`)),
      el("nav", {}, links.map(([id, text]) => el("a", { href: `#${id}` }, text))),
      el("button", { type: "button", class: "icon", id: "theme", "aria-label": "Light or dark", onclick: onTheme }, "◐"),
    ),
  );
}

function logo() {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", class: "logo", "aria-hidden": "true" },
    svg("path", { d: "M6 5v5c0 4 12 2 12 9M18 5v5c0 4-12 2-12 9" }),
    [[6, 4], [18, 4], [6, 20], [18, 20]].map(([cx, cy]) => svg("circle", { cx, cy, r: 2.6 })),
  );
}

function summary(report) {
  const { before, after, total_error: error } = report.passes;
  const cards = [latencyCard(report)];
  if (before && after) {
    cards.push(
      costCard("Nodes", before.nodes, after.nodes, quantity),
      costCard("Stored tensors", before.constant_bytes, after.constant_bytes, bytes),
      costCard("Multiply-adds", before.macs, after.macs, quantity),
      costCard("Peak memory", before.peak_bytes, after.peak_bytes, bytes),
    );
  }
  cards.push(errorCard(report.passes, error));
  return section(
    "summary",
    "Summary",
    el("div", { class: "cards" }, cards.filter(Boolean)),
    el("h3", {}, "Error over passes"),
    waterfall(report),
    measurements(report),
    engines(report),
    remarks(report),
  );
}

function card(title, value, old, delta, isGood) {
  return el(
    "div",
    { class: "card" },
    el("div", { class: "card-title" }, title),
    el("div", { class: "card-value" }, value),
    el("div", { class: "card-note" }, old ? el("span", {}, old) : null, delta ? el("b", { class: isGood ? "good" : "bad" }, delta) : null),
  );
}

function costCard(title, before, after, format) {
  const delta = change(before, after);
  return card(title, format(after), delta ? `was ${format(before)}` : "unchanged", delta, after < before);
}

function latencyCard(report) {
  const rows = report.measured ?? [];
  if (rows.length > 1) {
    const [original, compiled] = rows;
    const faster = compiled.speed_up >= 1;
    return card("Latency", `${digits(compiled.milliseconds)} ms`, `was ${digits(original.milliseconds)} ms`, `${digits(compiled.speed_up)}×`, faster);
  }
  const chosen = (report.engines ?? []).find((trial) => trial.chosen && trial.milliseconds !== null);
  return chosen ? card("Latency", `${digits(chosen.milliseconds)} ms`, chosen.engine) : null;
}

function errorCard(passes, error) {
  if (!error) return card("Error", "—", passes.validate === "off" ? "not validated" : "nothing changed");
  const sqnr = Number(error.sqnr);
  const note = Number.isFinite(sqnr) ? `SQNR ${digits(sqnr)} dB` : "equal to the original";
  return card("Error", small(error.max_rel), error.mismatches ? `${error.mismatches} integers differ` : note);
}

function measurements(report) {
  const rows = report.measured ?? [];
  if (!rows.length) return null;
  const columns = ["", "latency", "speed-up", "nodes", "stored", "largest difference"];
  return [
    el("h3", {}, "Measured"),
    table(
      columns,
      rows.map((row) => [
        row.name,
        `${digits(row.milliseconds)} ms`,
        `${digits(row.speed_up)}×`,
        row.nodes,
        bytes(row.megabytes * 1e6),
        row.max_error === null ? "" : small(row.max_error),
      ]),
    ),
  ];
}

function engines(report) {
  const trials = report.engines ?? [];
  if (!trials.length) return null;
  return [
    el("h3", {}, "Engines"),
    table(
      ["engine", "median", "loaded in", "MB planned", "outcome"],
      trials.map((trial) => [
        trial.settings ? `${trial.engine} (${trial.settings})` : trial.engine,
        trial.milliseconds === null ? "not timed" : `${digits(trial.milliseconds)} ms`,
        seconds(trial.load_seconds),
        trial.planned_bytes ? digits(trial.planned_bytes / 1e6) : "",
        trial.chosen ? el("span", { class: "pill good" }, "chosen") : trial.reason,
      ]),
      4,
    ),
  ];
}

function remarks(report) {
  const stages = Object.entries(report.seconds ?? {}).map(([name, value]) => `${name} ${seconds(value)}`);
  const { passes } = report;
  const checked =
    passes.validate === "off"
      ? "Numbers were not validated."
      : `Validated after ${passes.validate === "end" ? "the last pass" : "each pass"}: ${plural(passes.samples, "sample set")}, ${plural(passes.model_runs, "model run")}.`;
  const assumed = Object.entries(passes.after?.assumed ?? {}).map(([name, size]) => `${name} = ${size}`);
  const unknown = Object.entries(passes.after?.unknown ?? {}).map(([name, count]) => `${name} (${count})`);
  const lines = [
    checked,
    stages.length ? `Time: ${stages.join(", ")}.` : "",
    assumed.length ? `Costs assume ${assumed.join(", ")}.` : "",
    unknown.length ? `Costs are estimates for ${unknown.join(", ")}.` : "",
    ...(passes.notes ?? []),
    ...(report.attribution?.notes ?? []),
    ...(report.loaded?.passes?.notes ?? []),
  ];
  return el("ul", { class: "remarks" }, lines.filter(Boolean).map((line) => el("li", {}, line)));
}

// left: how many columns from the first, and the last ones, hold text.
function table(columns, rows, textFrom = columns.length) {
  const side = (index) => (index === 0 || index >= textFrom ? "text" : "number");
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, columns.map((column, index) => el("th", { class: side(index) }, column)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, index) => el("td", { class: side(index) }, cell))))),
    ),
  );
}
