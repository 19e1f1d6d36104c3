// Nodes as a tree of modules, from the paths in their locations. Groups of one are dissolved, and a group of very many
// is cut into runs of neighbours, so that each level can be laid out and looked at by itself.

const MOST_CHILDREN = 240;

class Item {
  constructor(kind, part, parent) {
    this.kind = kind; // "group", "node", "input" or "output"
    this.part = part; // of the path
    this.label = /^\d+$/.test(part) && parent?.parent ? `${parent.label}.${part}` : part;
    this.parent = parent;
    this.children = [];
    this.expanded = false;
    this.first = Infinity; // position of the first node in the graph
    this.count = 0;
    this.edges = new Map(); // of a group: between its children, "a b" → {from, to, count}
    this.id = Item.next++;
  }
  get isGroup() {
    return this.kind === "group";
  }
  get path() {
    const parts = [];
    for (let item = this; item.parent; item = item.parent) if (!item.isRun) parts.unshift(item.part);
    return parts.join(".");
  }
}
Item.next = 0;

class Tree {
  constructor(graph) {
    this.graph = graph;
    this.root = new Item("group", graph.facts.graph, null);
    this.root.expanded = true;
    this.leaves = new Array(graph.count);
    this.inputs = new Map(); // number of a value (−1 − k) → item
    this.outputs = [];
    this.addInputs();
    this.addNodes();
    this.tidy(this.root);
    this.addOutputs();
    this.split(this.root);
    this.measure(this.root, 0);
    this.addEdges();
    this.open(64);
  }

  addInputs() {
    const used = new Set(this.graph.facts.operands.flat().concat(this.graph.facts.outputs));
    for (let k = 0; k < this.graph.facts.inputs; k += 1) {
      if (!used.has(-1 - k)) continue;
      const item = this.leaf("input", this.graph.values[k].name, this.root, -1 - k);
      item.first = -1e9 + k;
      this.inputs.set(-1 - k, item);
    }
  }

  addNodes() {
    const groups = new Map();
    const paths = [];
    for (let node = 0; node < this.graph.count; node += 1) {
      const owner = this.graph.facts.parent[node];
      const scope = this.graph.scope(node);
      let path = scope ? scope.split(scope.includes("/") ? "/" : ".").filter(Boolean) : [];
      if (owner >= 0) path = [...paths[owner], `${this.graph.name(owner)} body`];
      paths.push(path);
      const item = this.leaf("node", this.graph.shortOp(node), this.group(groups, path), node);
      item.first = node;
      this.leaves[node] = item;
    }
  }

  group(groups, path) {
    let parent = this.root;
    let key = "";
    for (const part of path) {
      key += `\n${part}`;
      let found = groups.get(key);
      if (!found) {
        found = new Item("group", part, parent);
        parent.children.push(found);
        groups.set(key, found);
      }
      parent = found;
    }
    return parent;
  }

  leaf(kind, label, parent, node) {
    const item = new Item(kind, label, parent);
    item.node = node;
    parent.children.push(item);
    return item;
  }

  // A group with one child is that child; of two groups, one in the other, the labels are joined.
  tidy(group) {
    group.children = group.children.map((child) => {
      if (!child.isGroup) return child;
      this.tidy(child);
      if (child.children.length !== 1) return child;
      const only = child.children[0];
      if (only.isGroup) [only.part, only.label] = [`${child.part}.${only.part}`, `${child.part}.${only.part}`];
      else only.module = only.module ? `${child.part}.${only.module}` : child.part;
      only.parent = group;
      return only;
    });
  }

  addOutputs() {
    const { outputs, output_names: names } = this.graph.facts;
    outputs.forEach((value, index) => {
      const item = this.leaf("output", names[index] || `output ${index}`, this.root, value);
      item.first = 1e9 + index;
      this.outputs.push(item);
    });
  }

  split(group) {
    const children = group.children;
    if (children.length > MOST_CHILDREN) {
      const size = Math.ceil(children.length / Math.ceil(Math.sqrt(children.length)));
      const runs = [];
      for (const child of children) {
        // Inputs and outputs stay at the top and bottom.
        if (children.length < 4 * MOST_CHILDREN && child.kind !== "node" && !child.isGroup) runs.push(child);
        else {
          let run = runs.at(-1);
          if (!run?.isRun || run.children.length >= size) {
            run = new Item("group", "", group);
            run.isRun = true;
            runs.push(run);
          }
          child.parent = run;
          run.children.push(child);
        }
      }
      group.children = runs;
    }
    for (const child of group.children) if (child.isGroup) this.split(child);
  }

  // Counts, first positions and costs, children first.
  measure(item, depth) {
    item.depth = depth;
    const graph = this.graph;
    if (!item.isGroup) {
      const isNode = item.kind === "node";
      item.count = isNode ? 1 : 0;
      item.flops = isNode ? graph.flops(item.node) : 0;
      item.bytes = isNode ? graph.bytes(item.node) : 0;
      item.seconds = isNode ? graph.seconds(item.node) : 0;
      item.rewritten = isNode && graph.rules(item.node).length ? 1 : 0;
      return;
    }
    item.flops = item.bytes = item.seconds = item.rewritten = 0;
    for (const child of item.children) {
      this.measure(child, depth + 1);
      item.first = Math.min(item.first, child.first);
      for (const name of ["count", "flops", "bytes", "seconds", "rewritten"]) item[name] += child[name];
    }
    item.children.sort((a, b) => a.first - b.first);
    if (item.isRun) item.label = `${item.children[0].label} … ${item.children.at(-1).label}`;
  }

  // Each edge of the graph is one between two children of the lowest group that holds both ends.
  addEdges() {
    this.edges = [];
    const { operands, outputs } = this.graph.facts;
    operands.forEach((list, node) => {
      for (const operand of new Set(list)) this.connect(operand, this.leaves[node]);
    });
    outputs.forEach((operand, index) => this.connect(operand, this.outputs[index]));
  }

  connect(operand, target) {
    const source = operand >= 0 ? this.leaves[operand] : this.inputs.get(operand);
    if (!source) return; // a stored tensor
    let [a, b] = [source, target];
    while (b.depth > a.depth) {
      b.enters = true; // from outside its group
      b = b.parent;
    }
    while (a.depth > b.depth || (a.depth === b.depth && a.parent !== b.parent)) {
      a.leads = true; // out of its group
      a = a.parent;
      while (b.depth > a.depth) {
        b.enters = true;
        b = b.parent;
      }
    }
    const key = `${a.id} ${b.id}`;
    let edge = a.parent.edges.get(key);
    if (!edge) {
      edge = { from: a, to: b, count: 0 };
      a.parent.edges.set(key, edge);
    }
    edge.count += 1;
    this.edges.push({ source, target, level: edge });
  }

  // Expand level after level as long as no more than so many items show.
  open(most) {
    let shown = this.root.children.length;
    let level = this.root.children.filter((child) => child.isGroup);
    while (level.length) {
      shown += level.reduce((sum, group) => sum + group.children.length, 0);
      if (shown > most) return;
      for (const group of level) group.expanded = true;
      level = level.flatMap((group) => group.children.filter((child) => child.isGroup));
    }
  }

  setAll(expanded) {
    const visit = (item) => {
      for (const child of item.children) {
        if (!child.isGroup) continue;
        child.expanded = expanded;
        visit(child);
      }
    };
    visit(this.root);
  }

  reveal(item) {
    for (let group = item.parent; group; group = group.parent) group.expanded = true;
  }
}
