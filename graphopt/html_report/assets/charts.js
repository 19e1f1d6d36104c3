// The two plots, drawn as SVG: the waterfall of the error over passes, and the roofline.

// Steps of the error: from the attribution where there is one, else the error after each pass that was kept.
function errorSteps(report) {
  if (report.attribution) {
    let before = 0;
    return report.attribution.steps.map((step) => {
      const worst = Math.max(...step.outputs.map((output) => Number(output.accumulated.rms)));
      const bar = { name: step.name || step.kind, kind: step.kind, from: before, to: worst };
      before = worst;
      return bar;
    });
  }
  let before = 0;
  return report.passes.passes
    .filter((record) => record.status === "kept" && record.error)
    .map((record) => {
      const bar = { name: record.name, kind: "pass", from: before, to: Number(record.error.relative_rms) };
      before = bar.to;
      return bar;
    });
}

function waterfall(report) {
  const steps = errorSteps(report);
  if (!steps.length) {
    return el("p", { class: "empty" }, "No error was measured: no pass changed the graph, or validation was off.");
  }
  const total = steps.at(-1).to;
  const bars = [...steps, { name: "total", kind: "total", from: 0, to: total }];
  const highest = Math.max(...bars.map((bar) => Math.max(bar.from, bar.to)));
  if (highest === 0) {
    return el("p", { class: "empty" }, "No difference: after every pass the outputs equal the original's, bit by bit.");
  }
  const [width, height, left, bottom, top] = [920, 270, 62, 74, 14];
  const step = (width - left - 10) / bars.length;
  const y = (value) => top + (height - top - bottom) * (1 - value / (1.08 * highest));
  const ticks = niceTicks(1.08 * highest);
  const grid = ticks.map((tick) => [
    svg("line", { class: "grid", x1: left, x2: width, y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, small(tick)),
  ]);
  const drawn = bars.map((bar, index) => {
    const x = left + step * index + step * 0.16;
    const barWidth = Math.min(step * 0.68, 64);
    const [from, to] = [y(bar.from), y(bar.to)];
    const grew = bar.to > bar.from;
    const kind = bar.kind === "pass" || bar.kind === "engine" ? (grew ? "worse" : "better") : bar.kind;
    const flat = Math.abs(from - to) < 1.5;
    const text = `${bar.name}: ${small(bar.from)} → ${small(bar.to)}`;
    return svg(
      "g",
      {
        class: `bar ${flat ? "flat" : kind}`,
        onpointermove: (event) => showTip(event.clientX, event.clientY, text),
        onpointerleave: hideTip,
      },
      svg("rect", { class: "hover", x: left + step * index, y: top, width: step, height: height - top - bottom }),
      svg("rect", { x, y: Math.min(from, to), width: barWidth, height: Math.max(Math.abs(from - to), 2), rx: 2 }),
      index < bars.length - 1 ? svg("line", { class: "join", x1: x + barWidth, x2: x + step, y1: to, y2: to }) : null,
      !flat || bar.kind === "total"
        ? svg("text", { class: "value", x: x + barWidth / 2, y: Math.min(from, to) - 5, "text-anchor": "middle" }, small(bar.kind === "total" ? bar.to : bar.to - bar.from))
        : null,
      svg(
        "text",
        { class: "tick", "text-anchor": "end", transform: `translate(${x + barWidth / 2 + 4} ${height - bottom + 16}) rotate(-32)` },
        bar.name.length > 20 ? `${bar.name.slice(0, 19)}…` : bar.name,
      ),
    );
  });
  return el(
    "figure",
    {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": "Error after each pass" }, grid, drawn),
    el("figcaption", {}, "Relative RMS error of the worst output against the original in float64, after each pass."),
  );
}

function niceTicks(highest) {
  const raw = highest / 4;
  const scale = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 5, 10].find((factor) => factor * scale >= raw) * scale;
  const ticks = [];
  for (let tick = 0; tick <= highest; tick += size) ticks.push(tick);
  return ticks;
}

const MOST_POINTS = 1200;

// Points: equal nodes are one point with a count.
function rooflinePoints(graph) {
  const points = new Map();
  for (let node = 0; node < graph.count; node += 1) {
    const [flops, moved] = [graph.flops(node), graph.bytes(node)];
    if (!flops || !moved) continue;
    const time = graph.seconds(node);
    const key = time ? `${node}` : `${graph.op(node)} ${flops} ${moved}`;
    const point = points.get(key);
    if (point) point.count += 1;
    else points.set(key, { node, flops, moved, time, count: 1, operator: graph.shortOp(node) });
  }
  return [...points.values()];
}

function roofline(report, graph, onChoose) {
  const peaks = report.peaks;
  if (!peaks) return el("p", { class: "empty" }, "No peak is known. Save the report with peaks= for a roofline.");
  const all = rooflinePoints(graph);
  if (!all.length) return el("p", { class: "empty" }, "No node has known FLOPs.");
  const attainable = (flops, moved) => Math.min(peaks.flops, (peaks.bandwidth * flops) / moved);
  for (const point of all) {
    point.intensity = point.flops / point.moved;
    point.roof = attainable(point.flops, point.moved);
    point.speed = point.time ? point.flops / point.time : point.roof;
    point.least = point.flops / point.roof; // the time that the machine needs at least
    point.spent = point.count * (point.time || point.least);
  }
  const total = all.reduce((sum, point) => sum + point.spent, 0);
  const points = all.sort((a, b) => b.spent - a.spent).slice(0, MOST_POINTS);
  const ridge = peaks.flops / peaks.bandwidth;
  const lowX = Math.min(0.05, ...points.map((point) => point.intensity));
  const highX = 2 * Math.max(10 * ridge, ...points.map((point) => point.intensity));
  const lowY = Math.min(peaks.bandwidth * lowX, ...points.map((point) => point.speed)) / 2;
  const [width, height, left, bottom, top] = [920, 380, 74, 46, 16];
  const log = (value, low, high) => Math.log(value / low) / Math.log(high / low);
  const x = (value) => left + (width - left - 16) * log(value, lowX, highX);
  const y = (value) => top + (height - top - bottom) * (1 - log(value, lowY, 3 * peaks.flops));
  const grid = [
    ...decades(lowX, highX).map((tick) => [
      svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: height - bottom }),
      svg("text", { class: "tick", x: x(tick), y: height - bottom + 17, "text-anchor": "middle" }, quantity(tick)),
    ]),
    ...decades(lowY, 3 * peaks.flops).map((tick) => [
      svg("line", { class: "grid", x1: left, x2: width - 16, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, quantity(tick)),
    ]),
  ];
  const roof = `M${x(lowX)} ${y(peaks.bandwidth * lowX)} L${x(ridge)} ${y(peaks.flops)} L${x(highX)} ${y(peaks.flops)}`;
  const dots = points.map((point) =>
    svg("circle", {
      class: "dot",
      cx: x(point.intensity),
      cy: y(point.speed),
      r: 3.5 + 11 * Math.sqrt(point.spent / total),
      style: `fill: var(${family(point.operator)[1]})`,
      onpointermove: (event) => showTip(event.clientX, event.clientY, ...describePoint(point, graph, total)),
      onpointerleave: hideTip,
      onclick: () => onChoose(point.node),
    }),
  );
  const bound = points.reduce((sum, point) => sum + (point.intensity < ridge ? point.spent : 0), 0) / total;
  const measured = points.some((point) => point.time);
  return el(
    "figure",
    {},
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": "Roofline" },
      grid,
      svg("path", { class: "roof", d: roof }),
      svg("text", { class: "label", x: x(highX) - 4, y: y(peaks.flops) - 8, "text-anchor": "end" }, flop(peaks.flops, "FLOP/s")),
      svg("text", { class: "label", x: x(Math.sqrt(lowX * ridge)) - 14, y: y(peaks.bandwidth * Math.sqrt(lowX * ridge)) - 8, "text-anchor": "end" }, `${bytes(peaks.bandwidth)}/s`),
      dots,
      svg("text", { class: "axis", x: (left + width) / 2, y: height - 8, "text-anchor": "middle" }, "FLOP per byte moved"),
      svg("text", { class: "axis", transform: `translate(14 ${height / 2 - 10}) rotate(-90)`, "text-anchor": "middle" }, "FLOP/s"),
    ),
    el(
      "figcaption",
      {},
      `Optimized graph; peak of ${peaks.device}, ${peaks.source}. `,
      measured ? "Heights are measured, node by node. " : "Nodes stand on the roof: the most that they can reach. ",
      `Area: share of the time. Left of the ridge memory is the limit; nodes there take ${Math.round(100 * bound)} % of the time.`,
    ),
  );
}

function describePoint(point, graph, total) {
  const times = point.count > 1 ? ` × ${point.count}` : "";
  return [
    el("b", {}, point.operator + times),
    el("div", {}, `%${graph.name(point.node)} ${graph.scope(point.node)}`),
    el("div", {}, `${flop(point.flops)}, ${bytes(point.moved)}, ${digits(point.intensity)} FLOP/byte`),
    el("div", {}, point.time ? `${seconds(point.time)}, ${digits((100 * point.least) / point.time)} % of the roof` : `at least ${seconds(point.least)}`),
    el("div", { class: "muted" }, `${digits((100 * point.spent) / total)} % of the time`),
  ];
}

function decades(low, high) {
  const ticks = [];
  for (let power = Math.ceil(Math.log10(low)); 10 ** power <= high; power += 1) ticks.push(10 ** power);
  return ticks;
}
