// What pruning removed: the widths before and after, the sensitivity of each group, and what stays and why.

function pruning(report) {
  const found = report.pruning;
  if (!found) return null;
  return section(
    "pruning",
    "Pruning",
    el("p", { class: "mono muted pipeline" }, `${found.asked}, ${found.criterion}, ${found.scope}`),
    el("p", {}, found.summary),
    found.groups.length ? widthsPlot(found) : el("p", { class: "empty" }, "There were no channels to prune."),
    found.refused.length ? el("details", {}, el("summary", {}, `${found.refused.length} that stay, and why`), refusedTable(found.refused)) : null,
  );
}

function widthsPlot(found) {
  const curves = new Map(found.sweep.map((curve) => [curve.name, curve]));
  const [row, left, bar, right] = [20, 250, 470, 200];
  const widest = Math.max(...found.groups.map((group) => group.before));
  const worst = Math.max(0, ...found.sweep.flatMap((curve) => curve.values.map(Number).filter(Number.isFinite)));
  const [width, height] = [left + bar + right, row * found.groups.length + 6];
  const rows = found.groups.map((group, index) => {
    const y = row * index + 4;
    const [before, after] = [group.before, group.after].map((size) => (bar * size) / widest);
    const curve = curves.get(group.name);
    const text = `${group.name}: ${group.before} → ${group.after}`;
    const told = curve ? `; sensitivity ${curve.shares.map((ratio, i) => `${ratio}: ${small(Number(curve.values[i]))}`).join(", ")}` : "";
    return svg(
      "g",
      { class: "width", onpointermove: (event) => showTip(event.clientX, event.clientY, text + told), onpointerleave: hideTip },
      svg("rect", { class: "hover", x: 0, y: y - 3, width, height: row }),
      svg("text", { class: "tick", x: left - 8, y: y + 11, "text-anchor": "end" }, group.name.length > 38 ? `…${group.name.slice(-37)}` : group.name),
      svg("rect", { class: "before", x: left, y, width: Math.max(before, 1), height: row - 7, rx: 2 }),
      svg("rect", { class: "after", x: left, y, width: Math.max(after, 1), height: row - 7, rx: 2 }),
      svg("text", { class: "tick", x: left + before + 6, y: y + 11 }, `${group.before} → ${group.after}`),
      curve && worst > 0 ? sensitivity(curve, worst, left + bar + right - 84, y, 80, row - 7) : null,
    );
  });
  return el(
    "figure",
    {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot widths", role: "img", "aria-label": "Widths before and after pruning" }, rows),
    el("figcaption", {}, `Channels of each group, before and after.${curves.size ? " At the right: the error against the share that is removed." : ""}`),
  );
}

function sensitivity(curve, worst, x, y, width, height) {
  const shares = [0, ...curve.shares];
  const values = [0, ...curve.values.map(Number)].map((value) => (Number.isFinite(value) ? value : worst));
  const points = shares.map((share, index) => `${x + width * share},${y + height * (1 - values[index] / worst)}`);
  return svg("polyline", { class: "roof", points: points.join(" ") });
}

function refusedTable(refused) {
  const head = el("thead", {}, el("tr", {}, ["weight", "channels", "reason", "where"].map((name) => el("th", { class: name === "channels" ? "number" : "text" }, name))));
  const rows = refused.map((one) =>
    el("tr", {}, el("td", {}, el("code", {}, one.name)), el("td", { class: "number" }, one.channels), el("td", {}, one.reason), el("td", { class: "mono" }, one.where)),
  );
  return el("div", { class: "scroll" }, el("table", {}, head, el("tbody", {}, rows)));
}
