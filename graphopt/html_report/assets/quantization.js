// What quantization did: each layer's input with the chosen clip, its noise, what the engine fused, and the formats that
// were chosen.

function quantization(report) {
  const found = report.quantization;
  if (!found) return null;
  const counts = Object.entries(found.counts).map(([what, count]) => `${count} ${what}`).join(", ");
  return section(
    "quantization",
    "Quantization",
    el("p", {}, counts),
    found.fused ? fusedPairs(found.fused) : null,
    found.layers.length ? quantizedLayers(found.layers) : el("p", { class: "empty" }, "No layer has quantized activations."),
    found.search ? formatSearch(found.search) : null,
    found.left.length ? el("details", {}, el("summary", {}, `${found.left.length} in floating point, and why`), el("ul", { class: "remarks" }, found.left.map((line) => el("li", {}, line)))) : null,
  );
}

function fusedPairs(fused) {
  const kernels = Object.entries(fused.kernels).map(([name, count]) => el("span", { class: "chip" }, `${name} ${count}`));
  const remaining = fused.remaining.map((one) => el("li", {}, `${one.what} of ${one.name} is left: ${one.why}`));
  return el(
    "details",
    { class: "fused" },
    el("summary", {}, `${fused.engine} fused ${fused.fused} of ${plural(fused.pairs, "pair")}`),
    el("p", {}, kernels),
    remaining.length ? el("ul", { class: "remarks" }, remaining) : null,
  );
}

const DECIBELS = 70; // as wide as a bar gets: about what 11 bits give

function quantizedLayers(layers) {
  const timed = layers.some((layer) => layer.milliseconds);
  const names = ["layer", "operator", "weight", "input and clip", "noise of its own", "with all before it", ...(timed ? ["ms float", "ms integer"] : [])];
  const head = el("thead", {}, el("tr", {}, names.map((name) => el("th", { class: name.startsWith("ms") ? "number" : "text" }, name))));
  const rows = layers.map((layer) =>
    el(
      "tr",
      { class: "layer" },
      el("td", {}, el("code", {}, layer.name)),
      el("td", {}, el("code", {}, layer.operator.replace("aten.", ""))),
      el("td", {}, layer.format),
      el("td", {}, clippedHistogram(layer)),
      el("td", {}, decibelBar(layer.own)),
      el("td", {}, decibelBar(layer.accumulated)),
      timed ? (layer.milliseconds ?? ["", ""]).map((value) => el("td", { class: "number" }, value === "" ? "" : digits(value))) : null,
    ),
  );
  return el(
    "figure",
    {},
    el("div", { class: "scroll" }, el("table", {}, head, el("tbody", {}, rows))),
    el("figcaption", {}, "Inputs as seen in calibration, counts on a logarithmic scale; lines are the ends of what the scale covers. Noise as signal-to-noise ratio: longer is better."),
  );
}

function clippedHistogram(layer) {
  const [width, height] = [190, 34];
  const range = (pair) => pair.map((value) => small(value).replace("-", MINUS)).join(" to ");
  const text = `${layer.name}: seen ${range(layer.seen)}, covered ${range(layer.covered)}`;
  if (!layer.histogram) return text.slice(layer.name.length + 2);
  const { low, high, counts } = layer.histogram;
  const x = (value) => (width * (value - low)) / (high - low || 1);
  const top = Math.log1p(Math.max(...counts, 1));
  const step = width / counts.length;
  const bars = counts.map((count, index) => {
    const size = ((height - 2) * Math.log1p(count)) / top;
    const middle = low + ((index + 0.5) * (high - low)) / counts.length;
    const inside = layer.covered[0] <= middle && middle <= layer.covered[1];
    return count ? svg("rect", { class: inside ? "inside" : "clipped", x: step * index, y: height - size, width: Math.max(step - 0.5, 0.5), height: size }) : null;
  });
  const ends = layer.covered.map((end) => svg("line", { class: "clip", x1: x(end), x2: x(end), y1: 0, y2: height }));
  return svg(
    "svg",
    { viewBox: `-1 0 ${width + 2} ${height}`, width, height, class: "histogram", role: "img", "aria-label": text, onpointermove: (event) => showTip(event.clientX, event.clientY, text), onpointerleave: hideTip },
    bars,
    ends,
  );
}

function decibelBar(value) {
  const ratio = Number(value);
  const [width, height] = [96, 9];
  const length = Number.isFinite(ratio) ? Math.min(Math.max(ratio / DECIBELS, 0.01), 1) : ratio > 0 ? 1 : 0.01;
  return [
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "decibels" }, svg("rect", { width: width * length, height, rx: 2 })),
    ` ${Number.isFinite(ratio) ? `${digits(ratio)} dB` : "exact"}`,
  ];
}

function formatSearch(search) {
  const kinds = Object.keys(search.points[0]?.costs ?? {});
  const measured = search.points.some((point) => point.value !== null);
  const names = ["", "formats", ...kinds, "predicted error", ...(measured ? ["metric", "drop"] : [])];
  const head = el("thead", {}, el("tr", {}, names.map((name, index) => el("th", { class: index > 1 ? "number" : "text" }, name))));
  const rows = search.points.map((point) =>
    el(
      "tr",
      { class: "point" },
      el("td", {}, point.chosen ? el("span", { class: "pill good" }, "chosen") : ""),
      el("td", {}, Object.entries(point.counts).map(([name, count]) => `${count} ${name}`).join(", ")),
      kinds.map((kind) => el("td", { class: "number" }, `${digits(100 * point.costs[kind])} %`)),
      el("td", { class: "number" }, small(point.error)),
      measured ? [point.value, point.drop].map((value) => el("td", { class: "number" }, value === null ? "" : digits(value))) : null,
    ),
  );
  return el(
    "figure",
    {},
    el("h3", {}, "Formats of layers"),
    el("p", { class: "mono muted" }, `${search.asked}, sensitivity: ${search.sensitivity}`),
    frontier(search),
    el("div", { class: "scroll" }, el("table", {}, head, el("tbody", {}, rows))),
    el("figcaption", {}, "Costs are shares of the model's in floating point. Points are choices that nothing beats by prediction, and those that were measured."),
  );
}

// The choices: cost against predicted error, both rising; the error on a logarithmic scale.
function frontier(search) {
  const points = search.points.filter((point) => point.error > 0);
  if (points.length < 2) return null;
  const [width, height, left, bottom, top] = [620, 210, 66, 40, 12];
  const costs = points.map((point) => point.costs[search.cost]);
  const errors = points.map((point) => Math.log10(point.error));
  const [lowX, highX, lowY, highY] = [Math.min(...costs), Math.max(...costs), Math.min(...errors), Math.max(...errors)];
  const x = (cost) => left + ((width - left - 30) * (cost - lowX)) / (highX - lowX || 1);
  const y = (error) => top + (height - top - bottom) * (1 - (error - lowY) / (highY - lowY || 1));
  const dots = points.map((point, index) => {
    const text = `${Object.entries(point.counts).map(([name, count]) => `${count} ${name}`).join(", ")}: ${digits(100 * costs[index])} %, error ${small(point.error)}`;
    return svg("circle", { class: `dot ${point.chosen ? "chosen" : ""}`, cx: x(costs[index]), cy: y(errors[index]), r: point.chosen ? 6 : 4, onpointermove: (event) => showTip(event.clientX, event.clientY, text), onpointerleave: hideTip });
  });
  const ticks = [lowY, highY].map((tick) => svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, small(10 ** tick)));
  const ends = [lowX, highX].map((tick) => svg("text", { class: "tick", x: x(tick), y: height - bottom + 17, "text-anchor": "middle" }, `${digits(100 * tick)} %`));
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "plot frontier", role: "img", "aria-label": "Predicted error against cost" },
    svg("polyline", { class: "roof", points: points.map((_, index) => `${x(costs[index])},${y(errors[index])}`).join(" ") }),
    dots,
    ticks,
    ends,
    svg("text", { class: "axis", x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, search.cost),
  );
}
