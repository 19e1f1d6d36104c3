// The table of passes: a row each, which opens to the diff, the rules applied and what was declined.

const PASS_COLUMNS = ["pass", "status", "nodes", "parameters", "FLOPs", "bytes", "error", "promise", "time", "checks"];

function passes(report) {
  const records = report.passes.passes;
  if (!records.length) return section("passes", "Passes", el("p", { class: "empty" }, "No passes were run."));
  const body = el("tbody", {});
  records.forEach((record) => {
    const row = el("tr", { class: `pass ${record.status === "no change" ? "quiet" : ""}` }, passCells(record));
    const parts = passParts(record);
    body.append(row);
    if (!parts.length) return;
    const inner = el("tr", { class: "inner", hidden: true }, el("td", { colspan: PASS_COLUMNS.length }));
    const button = el("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-label": `What ${record.name} did` }, "▸");
    row.firstChild.prepend(button);
    row.classList.add("opens");
    row.addEventListener("click", () => {
      if (!inner.firstChild.childNodes.length) inner.firstChild.append(...parts.map((make) => make()));
      inner.hidden = !inner.hidden;
      button.setAttribute("aria-expanded", String(!inner.hidden));
    });
    body.append(inner);
  });
  const all = el("button", { type: "button", onclick: () => openAll(body) }, "Open all");
  return section(
    "passes",
    "Passes",
    el("div", { class: "row" }, el("p", { class: "mono muted pipeline" }, report.passes.pipeline), all),
    el(
      "div",
      { class: "scroll" },
      el("table", { class: "passes" }, el("thead", {}, el("tr", {}, PASS_COLUMNS.map((name, index) => el("th", { class: isText(index) }, name)))), body),
    ),
  );
}

const isText = (index) => (index < 2 || index === 7 ? "text" : "number");

function openAll(body) {
  const rows = [...body.querySelectorAll("tr.opens")];
  const anyClosed = rows.some((row) => row.nextSibling.hidden);
  for (const row of rows) if (row.nextSibling.hidden === anyClosed) row.click();
}

function passCells(record) {
  const { before, after } = record;
  const tone = { kept: "good", "no change": "", "rolled back": "bad", failed: "bad", skipped: "warn" }[record.status];
  const cells = [
    el("code", {}, `${record.where ? `${record.where} ` : ""}${record.text}`),
    el("span", { class: `pill ${tone ?? ""}` }, record.status),
    ...["nodes", "parameters", "flops", "bytes"].map((name) => beforeAfter(before?.[name], after?.[name])),
    record.error ? small(record.error.max_rel) : "",
    record.promise,
    seconds(record.seconds),
    seconds(record.verify_seconds + record.validate_seconds),
  ];
  return cells.map((cell, index) => el("td", { class: isText(index) }, cell));
}

function beforeAfter(before, after) {
  if (before === undefined || before === null) return "";
  if (after === undefined || after === null || after === before) return el("span", { class: "muted" }, quantity(before));
  return [el("span", { class: "muted" }, `${quantity(before)} → `), quantity(after)];
}

// What a row opens to, made when it is opened.
function passParts(record) {
  const parts = [];
  if (record.reason) parts.push(() => el("pre", { class: "reason" }, record.reason));
  const applied = Object.entries(record.applied);
  if (applied.length) {
    parts.push(() =>
      el("p", {}, el("b", {}, "Applied: "), applied.map(([rule, count]) => el("span", { class: "chip" }, el("code", {}, rule), ` × ${count}`))),
    );
  }
  if (record.notes.length) parts.push(() => el("ul", {}, record.notes.map((note) => el("li", {}, note))));
  if (record.changes?.length) parts.push(() => diff(record.changes));
  if (record.declined.length) parts.push(() => el("div", {}, el("b", {}, "Declined"), declinedList(record.declined)));
  return parts;
}

function diff(lines) {
  const kind = { "-": "removed", "+": "added", "…": "gap" };
  return el("pre", { class: "diff" }, lines.map((line) => el("span", { class: kind[line[0]] ?? "same" }, `${line}\n`)));
}

function declinedList(declined) {
  return el(
    "ul",
    { class: "declined" },
    declined.map((one) =>
      el(
        "li",
        {},
        el("code", {}, one.rule),
        ` ${one.reason} `,
        el("span", { class: "muted" }, `${one.count} ×`),
        one.examples.length
          ? el("details", {}, el("summary", {}, "where"), el("ul", {}, one.examples.map((example) => el("li", { class: "mono" }, example))))
          : null,
      ),
    ),
  );
}
