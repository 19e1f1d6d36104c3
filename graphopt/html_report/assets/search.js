// Search over names, operators, modules, source lines and rules; Enter and Shift+Enter step through what was found.

const MOST_RESULTS = 40;

class Search {
  constructor(views, getView, onFound) {
    this.views = views;
    this.getView = getView;
    this.onFound = onFound;
    this.found = [];
    this.at = -1;
    this.input = el("input", {
      type: "search",
      placeholder: "Search nodes, operators, modules…",
      "aria-label": "Search the graph",
      oninput: () => this.run(),
      onfocus: () => this.open(true),
      onkeydown: (event) => this.key(event),
    });
    this.count = el("span", { class: "count" });
    this.list = el("ul", { class: "results", hidden: true });
    this.element = el("div", { class: "search" }, this.input, this.count, this.list);
    document.addEventListener("pointerdown", (event) => this.element.contains(event.target) || this.open(false));
  }

  run() {
    const view = this.getView();
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.found = [];
    this.at = -1;
    for (let node = 0; words.length && node < view.graph.count; node += 1) {
      const text = view.graph.searchText(node);
      if (words.every((word) => text.includes(word))) this.found.push(node);
    }
    this.count.textContent = words.length ? String(this.found.length) : "";
    for (const each of this.views) each.setHits(each === view ? this.found : []);
    this.fill(view);
  }

  fill(view) {
    const rows = this.found.slice(0, MOST_RESULTS).map((node, index) =>
      el(
        "li",
        { onclick: () => this.go(index), "data-node": node },
        el("b", {}, view.graph.shortOp(node)),
        el("code", {}, `%${view.graph.name(node)}`),
        el("span", { class: "muted" }, view.graph.scope(node) || view.graph.source(node)),
      ),
    );
    if (this.found.length > MOST_RESULTS) {
      rows.push(el("li", { class: "muted" }, `and ${(this.found.length - MOST_RESULTS).toLocaleString("en")} others`));
    }
    this.list.replaceChildren(...rows);
    this.open(rows.length > 0);
  }

  open(isOpen) {
    this.list.hidden = !(isOpen && this.found.length);
  }

  go(index) {
    this.at = (index + this.found.length) % this.found.length;
    this.count.textContent = `${this.at + 1} of ${this.found.length}`;
    this.onFound(this.getView(), this.found[this.at]);
    this.getView().setHits(this.found);
  }

  key(event) {
    if (event.key === "Enter" && this.found.length) {
      this.open(false);
      this.go(this.at + (event.shiftKey ? -1 : 1));
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.run();
      this.input.blur();
    }
  }
}
