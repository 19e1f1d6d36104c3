// What is known of the selected box, beside the picture.

class Details {
  constructor() {
    this.element = el("aside", { class: "details", "aria-live": "polite" });
    this.show(null, null);
  }

  show(view, item) {
    this.view = view;
    if (!item) {
      this.element.replaceChildren(
        el("h3", {}, "Nothing selected"),
        el("p", { class: "muted" }, "Click a node for its source line, type and history. Click a module to open or close it."),
        el("p", { class: "muted" }, "Scroll to zoom, drag to pan; arrow keys, + and −, 0 to fit, / to search."),
      );
      return;
    }
    const parts = item.isGroup ? this.group(item) : item.kind === "node" ? this.node(item) : this.end(item);
    this.element.replaceChildren(...parts.flat(Infinity).filter(Boolean));
  }

  group(item) {
    const graph = this.view.graph;
    const nodes = [];
    const visit = (inner) => (inner.kind === "node" ? nodes.push(inner) : inner.children.forEach(visit));
    visit(item);
    const costly = [...nodes].sort((a, b) => b.flops - a.flops || b.bytes - a.bytes).slice(0, 6);
    return [
      el("h3", {}, item.label),
      el("p", { class: "mono muted" }, item.path || graph.facts.graph),
      this.facts([
        ["nodes", item.count.toLocaleString("en")],
        ["FLOPs", share(item.flops, graph.totals.flops, quantity)],
        ["bytes moved", share(item.bytes, graph.totals.bytes, bytes)],
        ["time", item.seconds ? share(item.seconds, graph.totals.seconds, seconds) : ""],
        ["made by rules", item.rewritten ? `${item.rewritten} of ${item.count}` : ""],
      ]),
      el("button", { type: "button", onclick: () => this.view.toggle(item) }, item.expanded ? "Close" : "Open"),
      el("h4", {}, "Costliest nodes"),
      el("ul", { class: "links" }, costly.map((leaf) => el("li", {}, this.link(leaf.node), ` ${flop(leaf.flops)}`))),
    ];
  }

  end(item) {
    const graph = this.view.graph;
    return [
      el("h3", {}, item.label),
      el("p", { class: "muted" }, item.kind === "input" ? "input of the graph" : "output of the graph"),
      this.facts([["type", graph.valueType(item.node)]]),
    ];
  }

  node(item) {
    const graph = this.view.graph;
    const node = item.node;
    const { facts } = graph;
    const rules = graph.rules(node);
    const flops = graph.flops(node);
    const moved = graph.bytes(node);
    return [
      el("h3", {}, graph.shortOp(node)),
      el("p", { class: "mono muted" }, `%${graph.name(node)} = ${graph.op(node)}`),
      this.facts([
        ["type", graph.types(node).join(", ")],
        ["attributes", facts.attributes[node]],
        ["source", shortPath(graph.source(node))],
        ["module", graph.scope(node)],
        ["device", graph.device(node)],
      ]),
      rules.length ? [el("h4", {}, "History"), el("ol", { class: "history" }, this.history(node, rules))] : null,
      el("h4", {}, "Cost"),
      this.facts([
        ["FLOPs", share(flops, graph.totals.flops, quantity)],
        ["multiply-adds", facts.macs[node] ? quantity(facts.macs[node]) : ""],
        ["bytes moved", share(moved, graph.totals.bytes, bytes)],
        ["FLOP per byte", moved ? digits(flops / moved) : ""],
        ["time", graph.seconds(node) ? share(graph.seconds(node), graph.totals.seconds, seconds) : ""],
      ]),
      this.errors(graph.error(node)),
      el("h4", {}, "Operands"),
      el("ul", { class: "links" }, facts.operands[node].map((operand) => this.operand(operand))),
      el("h4", {}, "Used by"),
      el("ul", { class: "links" }, this.users(node)),
      this.elsewhere(node),
    ];
  }

  history(node, rules) {
    const where = this.view.graph.source(node);
    const steps = this.view.title === "After" ? report.histories?.[this.view.graph.name(node)] : null;
    return [
      el("li", {}, where ? ["captured at ", shortPath(where)] : "captured"),
      steps ? steps.map((step) => el("li", {}, step)) : rules.map((rule) => el("li", {}, el("code", {}, rule))),
    ];
  }

  errors(row) {
    if (!row) return null;
    const shown = (found) => (found ? `${small(found.rms)} (SQNR ${digits(Number(found.sqnr))} dB)` : "");
    return [
      el("h4", {}, "Error"),
      this.facts([
        ["made here", shown(row.local)],
        ["accumulated", shown(row.accumulated)],
        ["of the original", shown(row.own)],
        ["stands for", row.original],
        ...Object.entries(row.engines ?? {}).map(([engine, found]) => [engine, shown(found)]),
      ]),
    ];
  }

  operand(operand) {
    const graph = this.view.graph;
    if (operand >= 0) return el("li", {}, this.link(operand), " ", el("span", { class: "muted" }, graph.types(operand)[0]));
    const value = graph.values[-1 - operand];
    return el("li", {}, el("code", {}, `%${value.name}`), el("span", { class: "muted" }, ` ${value.kind} ${value.type}`));
  }

  users(node) {
    const users = this.view.graph.users[node];
    const shown = users.slice(0, 12).map((user) => el("li", {}, this.link(user)));
    if (users.length > 12) shown.push(el("li", { class: "muted" }, `and ${users.length - 12} others`));
    if (this.view.graph.facts.outputs.includes(node)) shown.push(el("li", { class: "muted" }, "returned"));
    return shown;
  }

  link(node) {
    const { view } = this;
    return el("button", { type: "button", class: "link", onclick: () => view.goTo(node) }, `%${view.graph.name(node)}`);
  }

  // The node of that name in the other graph.
  elsewhere(node) {
    const other = this.view.other;
    const found = other?.graph.byName.get(this.view.graph.name(node));
    if (found === undefined) return null;
    return el("button", { type: "button", onclick: () => this.onOther(other, found) }, `Show in “${other.title}”`);
  }

  facts(rows) {
    const shown = rows.filter(([, value]) => value !== "" && value !== undefined && value !== null);
    return el("dl", {}, shown.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }
}

// The end of a long path; all of it on hover.
function shortPath(path) {
  if (path.length < 48) return path;
  const parts = path.split("/");
  return el("span", { title: path }, `…/${parts.slice(-2).join("/")}`);
}

function share(part, total, format) {
  if (!part) return "";
  const percent = total ? (100 * part) / total : 0;
  return `${format(part)} (${percent < 0.1 ? "<0.1" : digits(percent)} %)`;
}
