// The report, and the tables of a graph with what can be looked up in them.

function readReport() {
  const read = JSON.parse(document.getElementById("facts").textContent);
  // A model that was loaded from a file brings the report of its compilation.
  return read.compiled ? { peaks: read.peaks, ...read.compiled, loaded: read } : read;
}

class GraphFacts {
  constructor(facts, errors) {
    this.facts = facts;
    this.count = facts.op.length;
    this.values = facts.values;
    this.errors = errors ?? new Map();
    this.users = Array.from({ length: this.count }, () => []);
    facts.operands.forEach((operands, node) => {
      for (const operand of operands) {
        if (operand >= 0 && this.users[operand].at(-1) !== node) this.users[operand].push(node);
      }
    });
    this.totals = {};
    for (const name of ["flops", "macs", "read", "written"]) {
      this.totals[name] = facts[name].reduce((sum, value) => sum + value, 0);
    }
    this.totals.bytes = this.totals.read + this.totals.written;
    this.totals.seconds = (facts.seconds ?? []).reduce((sum, value) => sum + value, 0);
    this.byName = new Map(facts.name.map((name, node) => [name, node]));
  }

  text(table, node) {
    return this.facts.tables[table][this.facts[table][node]];
  }
  op(node) {
    return this.text("op", node);
  }
  // aten.add.Tensor → add
  shortOp(node) {
    const [dialect, base] = this.op(node).split(".");
    return base ?? dialect;
  }
  name(node) {
    return this.facts.name[node];
  }
  scope(node) {
    return this.text("scope", node);
  }
  device(node) {
    return this.text("device", node);
  }
  rules(node) {
    const text = this.text("rules", node);
    return text ? text.split("\n") : [];
  }
  types(node) {
    return this.facts.types[node].map((type) => this.facts.tables.type[type]);
  }
  source(node) {
    const file = this.text("file", node);
    return file ? `${file}:${this.facts.line[node]}` : "";
  }
  flops(node) {
    return this.facts.flops[node];
  }
  bytes(node) {
    return this.facts.read[node] + this.facts.written[node];
  }
  seconds(node) {
    return this.facts.seconds ? this.facts.seconds[node] : 0;
  }
  error(node) {
    return this.errors.get(this.name(node));
  }
  valueName(operand) {
    return operand >= 0 ? this.name(operand) : this.values[-1 - operand].name;
  }
  valueType(operand) {
    return operand >= 0 ? this.types(operand)[0] : this.values[-1 - operand].type;
  }

  searchText(node) {
    this.searchTexts ??= new Array(this.count);
    return (this.searchTexts[node] ??= [
      this.name(node),
      this.op(node),
      this.scope(node),
      this.source(node),
      this.facts.attributes[node],
      ...this.rules(node),
    ]
      .join("\n")
      .toLowerCase());
  }
}

// The attribution's rows by the name of the value; what makes a number of each is up to the colour.
function errorsByName(report) {
  return new Map((report.attribution?.nodes ?? []).map((row) => [row.name, row]));
}
