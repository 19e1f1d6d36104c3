// Drawing: only what is in sight, and only as much of it as can be read at the present scale.

const TEXT_SCALE = 0.38;
const DETAIL_SCALE = 0.6;

class Painter {
  constructor(context) {
    this.context = context;
  }

  // view: {x, y, scale} puts a point p at p · scale + (x, y); width, height: of the canvas, in CSS pixels.
  paint(scene, view, width, height, ratio) {
    const context = this.context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    this.scale = view.scale;
    this.scene = scene;
    this.sight = {
      left: -view.x / view.scale,
      top: -view.y / view.scale,
      right: (width - view.x) / view.scale,
      bottom: (height - view.y) / view.scale,
    };
    this.drawn = 0;
    this.boxes(scene.root);
    this.edges(scene.edges);
    this.labels(scene.root);
    return this.drawn;
  }

  isSeen(left, top, right, bottom) {
    const sight = this.sight;
    return right >= sight.left && left <= sight.right && bottom >= sight.top && top <= sight.bottom;
  }

  // Boxes of groups first, edges above them, then what they hold.
  boxes(group) {
    for (const item of group.children) {
      if (!item.expanded || !this.isSeen(item.x, item.y, item.x + item.w, item.y + item.h)) continue;
      this.rounded(item, 8);
      this.context.fillStyle = css[item.depth % 2 ? "--group" : "--group-2"];
      this.context.fill();
      this.stroke(item);
      if (item.w * this.scale > 24) this.boxes(item);
    }
  }

  labels(group) {
    for (const item of group.children) {
      if (!this.isSeen(item.x, item.y, item.x + item.w, item.y + item.h)) continue;
      this.drawn += 1;
      if (item.expanded) {
        if (this.scale > TEXT_SCALE * 0.8) this.header(item);
        if (item.w * this.scale > 24) this.labels(item);
      } else {
        this.card(item);
      }
    }
  }

  rounded(item, radius) {
    this.context.beginPath();
    this.context.roundRect(item.x, item.y, item.w, item.h, radius);
  }

  stroke(item) {
    const scene = this.scene;
    const chosen = item === scene.selected;
    const near = scene.neighbours.has(item);
    const hit = scene.hits.has(item);
    this.context.strokeStyle = chosen || near || hit ? css["--accent"] : css["--line"];
    this.context.lineWidth = (chosen ? 2.6 : near || hit ? 1.8 : 1) / Math.min(1, Math.max(this.scale, 0.25));
    this.context.stroke();
    if (hit && !chosen) {
      this.context.fillStyle = css["--accent-soft"];
      this.context.fill();
    }
  }

  header(item) {
    this.text(item.label, item.x + 26, item.y + 20, "title", css["--text"], item.w - 110);
    this.sign("−", item.x + 13, item.y + 16);
    this.context.textAlign = "right";
    this.text(plural(item.count, "node"), item.x + item.w - 10, item.y + 20, "small", css["--muted"], 90);
    this.context.textAlign = "left";
  }

  card(item) {
    const colour = this.scene.colouring.of(item);
    const isEnd = item.kind === "input" || item.kind === "output";
    const context = this.context;
    if (item.isGroup && this.scale > TEXT_SCALE) {
      // A second sheet behind says that there is more inside.
      context.beginPath();
      context.roundRect(item.x + 4, item.y + 4, item.w, item.h, 8);
      context.fillStyle = css["--group"];
      context.fill();
      context.strokeStyle = css["--line"];
      context.lineWidth = 1;
      context.stroke();
    }
    this.rounded(item, isEnd ? 14 : item.isGroup ? 8 : 6);
    context.fillStyle = colour?.fill ?? (isEnd ? css["--accent-soft"] : css["--node"]);
    context.fill();
    if (colour?.bar) {
      context.save();
      context.clip();
      context.fillStyle = colour.bar;
      if (this.scale < TEXT_SCALE) context.globalAlpha = 0.75;
      context.fillRect(item.x, item.y, this.scale < TEXT_SCALE ? item.w : 6, item.h);
      context.restore();
      this.rounded(item, 6);
    }
    this.stroke(item);
    if (this.scale < TEXT_SCALE) return;
    const ink = colour?.strong ? css["--on-ramp"] : css["--text"];
    const faint = colour?.strong ? css["--on-ramp"] : css["--muted"];
    if (item.isGroup) {
      this.sign("+", item.x + 15, item.y + item.h / 2, ink);
      this.text(item.label, item.x + 30, item.y + 21, "title", ink, item.w - 38);
      this.text(this.scene.second(item), item.x + 30, item.y + 37, "small", faint, item.w - 38);
    } else if (isEnd) {
      this.text(item.label, item.x + 13, item.y + 18, "title", ink, item.w - 20);
    } else {
      this.text(item.label, item.x + 14, item.y + 18, "title", ink, item.w - 20);
      if (this.scale > DETAIL_SCALE) this.text(this.scene.second(item), item.x + 14, item.y + 34, "small", faint, item.w - 20);
    }
  }

  sign(text, x, y, colour = css["--muted"]) {
    const context = this.context;
    context.beginPath();
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    if (text === "+") {
      context.moveTo(x, y - 4);
      context.lineTo(x, y + 4);
    }
    context.strokeStyle = colour;
    context.lineWidth = 1.6;
    context.stroke();
  }

  text(text, x, y, kind, colour, room) {
    this.context.font = font[kind];
    this.context.fillStyle = colour;
    this.context.fillText(textWidth(text, kind) > room ? cut(text, kind, room) : text, x, y);
  }

  edges(edges) {
    const thin = 1.1 / Math.min(1, Math.max(this.scale, 0.3));
    const chosen = [];
    const context = this.context;
    context.lineWidth = thin;
    context.strokeStyle = css["--edge"];
    context.beginPath();
    const heads = [];
    for (const edge of edges) {
      if (this.scene.selected && (edge.from === this.scene.selected || edge.to === this.scene.selected)) chosen.push(edge);
      else if (!edge.isLong && this.isSeen(edge.left, edge.top, edge.right, edge.bottom)) {
        this.curve(edge);
        heads.push(edge);
      }
    }
    context.stroke();
    this.heads(heads, css["--edge"]);
    context.strokeStyle = css["--accent"];
    context.lineWidth = 2 * thin;
    context.beginPath();
    for (const edge of chosen) this.curve(edge);
    context.stroke();
    this.heads(chosen, css["--accent"]);
  }

  curve(edge) {
    const [first, ...rest] = edge.points;
    let [x, y] = first;
    this.context.moveTo(x, y);
    for (const [nextX, nextY] of rest) {
      if (x === nextX) this.context.lineTo(nextX, nextY);
      else {
        const bend = edge.isBack ? 60 : (nextY - y) / 2;
        this.context.bezierCurveTo(x, y + bend, nextX, nextY - bend, nextX, nextY);
      }
      [x, y] = [nextX, nextY];
    }
  }

  heads(edges, colour) {
    if (this.scale < TEXT_SCALE) return;
    this.context.fillStyle = colour;
    this.context.beginPath();
    for (const edge of edges) {
      const [x, y] = edge.points.at(-1);
      this.context.moveTo(x, y);
      this.context.lineTo(x - 3.5, y - 7);
      this.context.lineTo(x + 3.5, y - 7);
    }
    this.context.fill();
  }
}

const cuts = new Map();
function cut(text, kind, room) {
  const key = `${kind} ${Math.round(room)} ${text}`;
  let found = cuts.get(key);
  if (found === undefined) {
    let length = Math.floor((text.length * room) / textWidth(text, kind));
    while (length > 1 && textWidth(`${text.slice(0, length)}…`, kind) > room) length -= 1;
    cuts.set(key, (found = `${text.slice(0, length)}…`));
  }
  return found;
}
