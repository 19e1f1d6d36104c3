// A layered drawing of one group's children: layers by the longest path, order by barycentres, positions by least
// squares under minimal distances. Each group is laid out by itself, its expanded children as boxes; so a click costs
// what is on the way up to the root. Linear but for the sorting within layers.

const GAP_X = 26;
const GAP_Y = 44;
const PAD = 16;
const HEADER = 30;
const MOST_BENDS = 600; // bends of long edges in one group; edges beyond that are drawn only where something is selected

const font = { title: "600 12px system-ui, sans-serif", small: "11px system-ui, sans-serif" };
const measure = document.createElement("canvas").getContext("2d");
const widths = new Map();

function textWidth(text, kind) {
  const key = `${kind} ${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    measure.font = font[kind];
    widths.set(key, (width = measure.measureText(text).width));
  }
  return width;
}

function sizeLeaf(item, second) {
  const wanted = Math.max(textWidth(item.label, "title"), second ? Math.min(textWidth(second, "small"), 190) : 0);
  item.w = Math.max(84, Math.ceil(wanted) + 26);
  item.h = item.kind === "node" ? 44 : 28;
}

function sizeGroup(item, second) {
  item.w = Math.max(120, Math.ceil(Math.max(textWidth(item.label, "title"), textWidth(second, "small"))) + 44);
  item.h = 50;
}

class Layout {
  constructor(group) {
    this.group = group;
    this.children = group.children;
    this.cells = this.children.map((item) => ({ item, w: item.w, h: item.h, up: [], down: [], layer: 0 }));
    this.cellOf = new Map(this.children.map((item, index) => [item, this.cells[index]]));
    this.assignLayers();
    this.addBends();
    this.order();
    this.place();
    this.finish();
  }

  assignLayers() {
    const position = new Map(this.children.map((item, index) => [item, index]));
    const ins = this.children.map(() => []);
    const outs = this.children.map(() => []);
    this.forward = [];
    for (const edge of this.group.edges.values()) {
      const [from, to] = [position.get(edge.from), position.get(edge.to)];
      edge.points = null;
      edge.isBack = from >= to;
      if (edge.isBack) continue;
      this.forward.push(edge);
      ins[to].push(from);
      outs[from].push(to);
    }
    this.cells.forEach((cell, index) => {
      cell.layer = ins[index].reduce((layer, from) => Math.max(layer, this.cells[from].layer + 1), 0);
    });
    // What nothing leads to goes right above its first use.
    for (let index = this.cells.length - 1; index >= 0; index -= 1) {
      if (ins[index].length || !outs[index].length) continue;
      this.cells[index].layer = Math.min(...outs[index].map((to) => this.cells[to].layer)) - 1;
    }
    const last = this.cells.reduce((most, cell) => Math.max(most, cell.layer), 0);
    for (const cell of this.cells) if (cell.item.kind === "output") cell.layer = last;
    const layers = Array.from({ length: last + 1 }, () => []);
    for (const cell of this.cells) layers[cell.layer].push(cell);
    this.layers = layers.filter((layer) => layer.length);
    this.layers.forEach((layer, index) => layer.forEach((cell) => (cell.layer = index)));
  }

  // Edges that pass layers get a bend in each; so do those that come from outside the group, or lead out of it.
  addBends() {
    let bends = 0;
    const chain = (from, above, below, to) => {
      const made = [];
      bends += below - above + 1;
      for (let layer = above; layer <= below; layer += 1) {
        const bend = { w: 10, h: 0, up: [], down: [], layer, isBend: true };
        if (from) this.join(from, bend);
        this.layers[layer].push(bend);
        made.push(bend);
        from = bend;
      }
      if (from && to) this.join(from, to);
      return made;
    };
    const byLength = this.forward
      .map((edge) => [edge, this.cellOf.get(edge.from), this.cellOf.get(edge.to)])
      .sort((a, b) => a[2].layer - a[1].layer - (b[2].layer - b[1].layer));
    for (const [edge, from, to] of byLength) {
      edge.isLong = bends + to.layer - from.layer - 1 > MOST_BENDS;
      edge.bends = edge.isLong ? [] : chain(from, from.layer + 1, to.layer - 1, to);
    }
    const last = this.layers.length - 1;
    for (const cell of this.cells) {
      const fits = (length) => length > 0 && bends + length <= 2 * MOST_BENDS;
      cell.way = {
        in: cell.item.enters && fits(cell.layer) ? chain(null, 0, cell.layer - 1, cell) : [],
        out: cell.item.leads && fits(last - cell.layer) ? chain(cell, cell.layer + 1, last, null) : [],
      };
    }
  }

  join(above, below) {
    above.down.push(below);
    below.up.push(above);
  }

  order() {
    for (const layer of this.layers) layer.forEach((cell, index) => (cell.rank = index));
    const sweep = (layers, side) => {
      for (const layer of layers) {
        for (const cell of layer) {
          const near = cell[side];
          cell.wish = near.length ? near.reduce((sum, other) => sum + other.rank, 0) / near.length : cell.rank;
        }
        layer.sort((a, b) => a.wish - b.wish || a.rank - b.rank);
        layer.forEach((cell, index) => (cell.rank = index));
      }
    };
    const backwards = [...this.layers].reverse();
    for (let round = 0; round < 4; round += 1) {
      sweep(this.layers, "up");
      sweep(backwards, "down");
    }
  }

  place() {
    for (const layer of this.layers) {
      let x = 0;
      for (const cell of layer) {
        cell.x = x + cell.w / 2;
        x += cell.w + GAP_X;
      }
      for (const cell of layer) cell.x -= x / 2;
    }
    const settle = (layers, sides) => {
      for (const layer of layers) {
        for (const cell of layer) {
          let [sum, weight] = [0, 0];
          for (const side of sides) {
            for (const other of cell[side]) {
              const strength = cell.isBend && other.isBend ? 8 : 1;
              sum += strength * other.x;
              weight += strength;
            }
          }
          cell.wish = weight ? sum / weight : cell.x;
          cell.weight = weight || 0.1;
        }
        spread(layer);
      }
    };
    const backwards = [...this.layers].reverse();
    for (let round = 0; round < 4; round += 1) {
      settle(this.layers, ["up"]);
      settle(backwards, ["down"]);
    }
    settle(this.layers, ["up", "down"]);
  }

  finish() {
    let [left, right, y] = [Infinity, -Infinity, 0];
    for (const layer of this.layers) {
      const height = layer.reduce((most, cell) => Math.max(most, cell.h), 0);
      for (const cell of layer) {
        cell.top = y;
        cell.height = height;
        left = Math.min(left, cell.x - cell.w / 2);
        right = Math.max(right, cell.x + cell.w / 2);
      }
      y += height + GAP_Y;
    }
    const [dx, dy] = [PAD - left, PAD + HEADER];
    for (const cell of this.cells) {
      cell.item.rx = cell.x - cell.w / 2 + dx;
      cell.item.ry = cell.top + (cell.height - cell.h) / 2 + dy;
    }
    // A bend is as tall as its layer, so that an edge goes straight past a large box.
    const through = (bends) =>
      bends.flatMap((bend) => [
        [bend.x + dx, bend.top + dy],
        [bend.x + dx, bend.top + bend.height + dy],
      ]);
    for (const edge of this.forward) edge.points = through(edge.bends);
    for (const cell of this.cells) cell.item.way = { in: through(cell.way.in), out: through(cell.way.out) };
    this.group.w = Math.max(right - left + 2 * PAD, textWidth(this.group.label, "title") + 120);
    this.group.h = Math.max(y - GAP_Y, 0) + 2 * PAD + HEADER;
  }
}

// Move the cells of a layer to where they want to be, as near as their order and distances allow: minimize
// Σ weight·(x − wish)² with x[i+1] − x[i] at least so much. In t[i] = x[i] − Σ distances that is isotonic regression,
// which pooling neighbours that are out of order solves exactly.
function spread(layer) {
  const blocks = [];
  let offset = 0;
  layer.forEach((cell, index) => {
    if (index) offset += (layer[index - 1].w + cell.w) / 2 + GAP_X;
    cell.offset = offset;
    let block = { sum: cell.weight * (cell.wish - offset), weight: cell.weight, cells: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
      const previous = blocks.pop();
      block = {
        sum: previous.sum + block.sum,
        weight: previous.weight + block.weight,
        cells: previous.cells + block.cells,
      };
    }
    blocks.push(block);
  });
  let index = 0;
  for (const block of blocks) {
    for (let count = 0; count < block.cells; count += 1, index += 1) {
      layer[index].x = block.sum / block.weight + layer[index].offset;
    }
  }
}
