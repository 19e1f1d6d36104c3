// One graph as an interactive picture: a canvas with a camera, a selection, and groups that open and close.

class GraphView {
  constructor(title, graph, { onSelect }) {
    this.graph = graph;
    this.tree = new Tree(graph);
    this.onSelect = onSelect;
    this.scene = {
      root: this.tree.root,
      edges: [],
      selected: null,
      neighbours: new Set(),
      hits: new Set(),
      colouring: new Colouring("operator", this.tree),
      second: (item) => this.second(item),
    };
    this.camera = { x: 0, y: 0, scale: 1 };
    this.canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": `${title}: graph of ${graph.count} nodes` });
    this.caption = el("div", { class: "caption" });
    this.element = el("div", { class: "view", "data-view": title }, this.canvas, this.caption);
    this.title = title;
    this.painter = new Painter(this.canvas.getContext("2d"));
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.element);
    this.arrange();
  }

  // The second line of a box.
  second(item) {
    if (item.isGroup) {
      const { mode } = this.scene.colouring;
      if (mode === "bytes" && item.bytes) return `${plural(item.count, "node")} · ${bytes(item.bytes)}`;
      if (mode === "seconds" && item.seconds) return `${plural(item.count, "node")} · ${seconds(item.seconds)}`;
      return item.flops ? `${plural(item.count, "node")} · ${flop(item.flops)}` : plural(item.count, "node");
    }
    if (item.kind !== "node") return "";
    const type = this.graph.types(item.node)[0] ?? "";
    return item.module ? `${item.module} · ${type}` : type;
  }

  // Layout

  arrange() {
    this.layOut(this.tree.root);
    this.tree.root.x = this.tree.root.y = 0;
    this.settle(this.tree.root);
    this.scene.edges = this.visibleEdges();
    this.caption.textContent = `${this.title} · ${plural(this.graph.count, "node")}, ${this.shown} boxes shown`;
    this.select(this.scene.selected);
  }

  layOut(group) {
    for (const child of group.children) {
      if (!child.isGroup) {
        if (!child.w) sizeLeaf(child, this.second(child));
      } else if (child.expanded) this.layOut(child);
      else if (!child.closed) {
        sizeGroup(child, this.second(child));
        child.closed = [child.w, child.h];
      } else [child.w, child.h] = child.closed;
    }
    new Layout(group);
  }

  // Absolute positions, and which visible box stands for each leaf.
  settle(group) {
    this.shown = 0;
    const stand = (item, box) => {
      item.box = box;
      for (const child of item.children) stand(child, box);
    };
    const visit = (item) => {
      for (const child of item.children) {
        child.x = item.x + child.rx;
        child.y = item.y + child.ry;
        this.shown += 1;
        if (child.expanded) {
          child.box = child;
          visit(child);
        } else stand(child, child);
      }
    };
    visit(group);
  }

  visibleEdges() {
    const seen = new Set();
    const edges = [];
    for (const { source, target, level } of this.tree.edges) {
      const [from, to] = [source.box, target.box];
      if (from === to) continue;
      const key = from.id * 1e7 + to.id;
      if (seen.has(key)) continue;
      seen.add(key);
      const group = level.from.parent;
      const start = [from.x + from.w / 2, from.y + from.h];
      const end = [to.x + to.w / 2, to.y];
      const placed = (inside, bends) => bends.map(([x, y]) => [x + inside.x, y + inside.y]);
      const points = [start];
      for (let box = from; box.parent !== group; box = box.parent) points.push(...placed(box.parent, box.way.out));
      points.push(...placed(group, level.points ?? []));
      const inner = [];
      for (let box = to; box.parent !== group; box = box.parent) inner.unshift(...placed(box.parent, box.way.in));
      points.push(...inner, end);
      const xs = points.map((point) => point[0]);
      const ys = points.map((point) => point[1]);
      const slack = level.isBack ? 60 : 0;
      edges.push({
        from,
        to,
        points,
        isLong: level.isLong,
        isBack: level.isBack,
        left: Math.min(...xs),
        right: Math.max(...xs),
        top: Math.min(...ys) - slack,
        bottom: Math.max(...ys) + slack,
      });
    }
    return edges;
  }

  // Camera

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    this.width = width;
    this.height = height;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = width * this.ratio;
    this.canvas.height = height * this.ratio;
    if (this.isMoved) this.draw();
    else this.fit();
  }

  fit() {
    const { w, h } = this.tree.root;
    const scale = Math.min(1.25, (this.width - 24) / w, (this.height - 60) / h);
    // A long graph starts at its top, at a size that can be read.
    const readable = Math.max(scale, Math.min(0.62, (this.width - 24) / w));
    this.look((this.width - w * readable) / 2, readable > scale ? 8 : (this.height - h * readable) / 2, readable);
    this.isMoved = false;
  }

  fitAll() {
    const { w, h } = this.tree.root;
    const scale = Math.min(1.25, (this.width - 24) / w, (this.height - 40) / h);
    this.look((this.width - w * scale) / 2, (this.height - h * scale) / 2, scale);
  }

  look(x, y, scale) {
    this.camera = { x, y, scale };
    this.isMoved = true;
    this.draw();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const { camera } = this;
    const scale = Math.max(0.01, Math.min(4, camera.scale * factor));
    const ratio = scale / camera.scale;
    this.look(x - (x - camera.x) * ratio, y - (y - camera.y) * ratio, scale);
  }

  centre(item) {
    const scale = Math.max(this.camera.scale, 0.8);
    this.look(
      this.width / 2 - (item.x + item.w / 2) * scale,
      this.height / 2 - (item.y + Math.min(item.h, this.height / scale) / 2) * scale,
      scale,
    );
  }

  draw() {
    if (this.pending || !this.width) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.drawn = this.painter.paint(this.scene, this.camera, this.width, this.height, this.ratio);
    });
  }

  // What a person does

  toggle(group) {
    const before = [group.x * this.camera.scale + this.camera.x, group.y * this.camera.scale + this.camera.y];
    group.expanded = !group.expanded;
    this.arrange();
    // The box that was clicked stays where it is.
    this.look(before[0] - group.x * this.camera.scale, before[1] - group.y * this.camera.scale, this.camera.scale);
  }

  setAll(expanded) {
    this.tree.setAll(expanded);
    this.arrange();
    this.fit();
  }

  select(item) {
    this.scene.selected = item;
    this.scene.neighbours = new Set();
    for (const edge of item ? this.scene.edges : []) {
      if (edge.from === item) this.scene.neighbours.add(edge.to);
      if (edge.to === item) this.scene.neighbours.add(edge.from);
    }
    this.draw();
  }

  choose(item) {
    this.select(item);
    this.onSelect(this, item);
  }

  // Show a leaf: open what holds it, and put it in the middle.
  goTo(node) {
    const item = this.tree.leaves[node];
    this.tree.reveal(item);
    this.arrange();
    this.centre(item);
    this.choose(item);
  }

  setHits(nodes) {
    this.scene.hits = new Set(nodes.map((node) => this.tree.leaves[node].box));
    this.draw();
  }

  colour(mode) {
    this.scene.colouring = new Colouring(mode, this.tree);
    this.draw();
  }

  itemAt(x, y) {
    const [px, py] = [(x - this.camera.x) / this.camera.scale, (y - this.camera.y) / this.camera.scale];
    const inside = (item) => px >= item.x && px <= item.x + item.w && py >= item.y && py <= item.y + item.h;
    let found = null;
    for (let group = this.tree.root; group; ) {
      const child = group.children.find(inside);
      found = child ?? found;
      group = child?.expanded ? child : null;
    }
    return found;
  }

  listen() {
    const { canvas } = this;
    const pointers = new Map();
    let moved = 0;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const step = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
      if (event.ctrlKey || !event.shiftKey) this.zoom(Math.exp(-step * (event.ctrlKey ? 0.01 : 0.0016)), ...at(event));
      else this.look(this.camera.x - step, this.camera.y, this.camera.scale);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const previous = pointers.get(event.pointerId);
      const now = at(event);
      if (!previous) return this.hover(event, now);
      hideTip();
      const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId);
      if (others.length) {
        const [ox, oy] = others[0][1];
        const factor = Math.hypot(now[0] - ox, now[1] - oy) / (Math.hypot(previous[0] - ox, previous[1] - oy) || 1);
        this.zoom(factor, ox, oy);
      } else this.look(this.camera.x + now[0] - previous[0], this.camera.y + now[1] - previous[1], this.camera.scale);
      moved += Math.hypot(now[0] - previous[0], now[1] - previous[1]);
      pointers.set(event.pointerId, now);
    });
    canvas.addEventListener("pointerup", (event) => {
      pointers.delete(event.pointerId);
      if (moved < 4) this.click(...at(event));
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", hideTip);
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  click(x, y) {
    const item = this.itemAt(x, y);
    if (item?.isGroup) this.toggle(item);
    this.choose(item);
  }

  hover(event, [x, y]) {
    const item = this.itemAt(x, y);
    this.canvas.style.cursor = item ? "pointer" : "grab";
    if (!item || item.expanded) return hideTip();
    const lines = [el("b", {}, item.label)];
    if (item.kind === "node") lines.push(el("div", {}, `%${this.graph.name(item.node)}`));
    if (this.second(item)) lines.push(el("div", {}, this.second(item)));
    if (item.isGroup) lines.push(el("div", { class: "muted" }, "click to open"));
    showTip(event.clientX, event.clientY, ...lines);
  }

  key(event) {
    const { x, y, scale } = this.camera;
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (moves[event.key]) this.look(x + moves[event.key][0], y + moves[event.key][1], scale);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fitAll();
    else if (event.key === "Enter" && this.scene.selected?.isGroup) this.toggle(this.scene.selected);
    else if (event.key === "Escape") this.choose(null);
    else return;
    event.preventDefault();
  }
}
