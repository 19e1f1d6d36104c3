// What colours mean: by operator, cost, error, device, or what passes made.

const FAMILIES = [
  ["convolution", "--c1", /^conv|convolution/],
  ["matrix product", "--c2", /linear|^mm$|^bmm$|matmul|^addmm|einsum|^dot$|^mv$/],
  ["attention", "--c3", /attention/],
  ["normalization", "--c4", /norm/],
  ["activation", "--c5", /relu|gelu|silu|sigmoid|tanh|softmax|softplus|hardswish|hardtanh|elu$|mish|clamp/],
  ["quantization", "--c6", /quant/],
  ["reduction, pooling", "--c7", /pool|^mean|^sum|^amax|^amin|^max|^min|^var|^std|^any|^all|argm|cumsum|topk|sort/],
  [
    "shape, view",
    "--c8",
    /view|reshape|permute|transpose|flatten|squeeze|expand|slice|select|split|chunk|^cat$|stack|^t$|contiguous|pad|narrow|unfold|roll|flip|index|gather|embedding|repeat/,
  ],
];
const OTHER = ["arithmetic, other", "--c9"];

const MODES = {
  operator: "Operator",
  flops: "FLOPs",
  bytes: "Bytes moved",
  seconds: "Time",
  error: "Error",
  local: "Error made here",
  device: "Device",
  rewritten: "Made by rules",
};

let css = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["--bg", "--panel", "--node", "--line", "--edge", "--text", "--muted", "--accent", "--accent-soft"];
  const more = ["--group", "--group-2", "--ramp-0", "--ramp-1", "--ramp-2", "--bad", "--good", "--on-ramp"];
  css = {};
  for (const name of [...names, ...more, ...FAMILIES.map((f) => f[1]), OTHER[1]]) {
    css[name] = style.getPropertyValue(name).trim();
  }
}

const familyOf = new Map();
function family(operator) {
  let found = familyOf.get(operator);
  if (!found) familyOf.set(operator, (found = FAMILIES.find(([, , pattern]) => pattern.test(operator)) ?? OTHER));
  return found;
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// A colour of the ramp for a share from 0 to 1.
function ramp(share) {
  const stops = [css["--ramp-0"], css["--ramp-1"], css["--ramp-2"]].map(channels);
  const at = Math.max(0, Math.min(1, share)) * 2;
  const [a, b] = at < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
  const part = at < 1 ? at : at - 1;
  return `rgb(${a.map((from, index) => Math.round(from + (b[index] - from) * part)).join(",")})`;
}

// The colours of one mode over one tree: `of(item)` gives {fill, strong} or null for no colour, `legend()` elements.
class Colouring {
  constructor(mode, tree) {
    this.mode = mode;
    this.tree = tree;
    this.graph = tree.graph;
    if (mode === "device") this.devices = [...new Set(this.graph.facts.tables.device.filter(Boolean))];
    if (mode === "error" || mode === "local") this.readErrors();
    else this.most = tree.leaves.reduce((most, leaf) => Math.max(most, leaf[mode] || 0), 0);
  }

  readErrors() {
    const value = (node) => {
      const row = this.graph.error(node);
      const found = this.mode === "local" ? row?.local : row?.accumulated;
      return found ? Number(found.rms) : null;
    };
    const visit = (item) => {
      if (item.kind === "node") return (item.shownError = value(item.node));
      const inner = item.children.map(visit).filter((found) => found !== null && found !== undefined);
      return (item.shownError = inner.length ? Math.max(...inner) : null);
    };
    visit(this.tree.root);
    const known = this.tree.leaves.map((leaf) => leaf.shownError).filter((error) => error > 0 && Number.isFinite(error));
    this.highest = known.reduce((most, error) => Math.max(most, error), 0) || 1;
    this.lowest = Math.min(known.reduce((least, error) => Math.min(least, error), Infinity), this.highest / 10);
  }

  of(item) {
    if (item.kind === "input" || item.kind === "output") return null;
    switch (this.mode) {
      case "operator":
        return item.isGroup ? null : { bar: css[family(item.label)[1]] };
      case "device":
        return this.deviceColour(item);
      case "rewritten":
        return item.rewritten ? { fill: ramp((0.7 * item.rewritten) / item.count + 0.15), strong: false } : null;
      case "error":
      case "local":
        return this.errorColour(item);
      default: {
        const share = this.most ? Math.sqrt(item[this.mode] / (item.isGroup ? this.tree.root[this.mode] : this.most)) : 0;
        return { fill: ramp(share), strong: share > 0.62 };
      }
    }
  }

  errorColour(item) {
    const error = item.shownError;
    if (error === null || error === undefined) return null;
    if (error <= 0) return { fill: ramp(0), strong: false };
    const span = Math.log(this.highest / this.lowest) || 1;
    const share = 0.1 + 0.9 * Math.min(1, Math.max(0, Math.log(error / this.lowest) / span));
    return { fill: ramp(share), strong: share > 0.62 };
  }

  deviceColour(item) {
    if (item.isGroup) return null;
    const device = this.graph.device(item.node);
    return device ? { bar: css[`--c${1 + (this.devices.indexOf(device) % 8)}`] } : null;
  }

  legend() {
    return this.legendParts().map((part) => (typeof part === "string" ? el("span", {}, part) : part));
  }

  legendParts() {
    const swatch = (colour, text) => {
      const dot = el("i", {});
      dot.style.background = colour;
      return el("span", { class: "swatch" }, dot, text);
    };
    switch (this.mode) {
      case "operator": {
        const present = new Set(this.graph.facts.tables.op.map((op) => family(op.split(".")[1] ?? op)));
        return [...FAMILIES, OTHER].filter((kind) => present.has(kind)).map(([name, colour]) => swatch(css[colour], name));
      }
      case "device":
        return this.devices.map((device, index) => swatch(css[`--c${1 + (index % 8)}`], device));
      case "rewritten":
        return [swatch(ramp(0.85), "made or changed by a rule"), swatch(css["--node"], "as captured")];
      case "error":
      case "local":
        return [small(this.lowest), gradient(), small(this.highest), "relative RMS error, logarithmic"];
      default: {
        const shown = { flops: quantity, bytes, seconds }[this.mode];
        return ["0", gradient(), shown(this.most) || "0", "of one node; groups by their share of the total"];
      }
    }
  }
}

function gradient() {
  const bar = el("span", { class: "gradient" });
  bar.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(",")})`;
  return bar;
}
