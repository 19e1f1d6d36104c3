// Rules over the whole run: what each tried and did, what it declined and why, and those that never fired.

function rules(report) {
  const all = ruleTotals(report.passes.passes);
  const declined = report.passes.passes.filter((record) => record.status !== "rolled back").flatMap((record) => record.declined);
  if (!all.length) return section("rules", "Rules", el("p", { class: "empty" }, "No pass applied rules."));
  const holder = el("div", {});
  const show = (which) => holder.replaceChildren(ruleTable(all.filter(RULE_FILTERS[which])));
  const idle = all.filter(RULE_FILTERS.idle).length;
  const buttons = segmented("Which rules", [["tried", "Matched"], ["fired", "Applied"], ["idle", `Never applied (${idle})`], ["all", `All (${all.length})`]], "tried", show);
  show("tried");
  return section(
    "rules",
    "Rules",
    el("h3", {}, "Declined, and why"),
    declined.length ? declinedList(mergeDeclined(declined)) : el("p", { class: "empty" }, "No rule declined a match."),
    el("div", { class: "row" }, el("h3", {}, "Statistics"), buttons),
    holder,
  );
}

const RULE_FILTERS = {
  tried: (rule) => rule.matches > 0,
  fired: (rule) => rule.applied > 0,
  idle: (rule) => rule.applied === 0,
  all: () => true,
};

function ruleTotals(records) {
  const totals = new Map();
  for (const record of records) {
    for (const rule of Object.values(record.rules ?? {})) {
      const total = totals.get(rule.name) ?? { name: rule.name, attempts: 0, matches: 0, applied: 0, seconds: 0, reasons: {} };
      for (const key of ["attempts", "matches", "applied", "seconds"]) total[key] += rule[key];
      for (const [reason, count] of Object.entries(rule.reasons)) total.reasons[reason] = (total.reasons[reason] ?? 0) + count;
      totals.set(rule.name, total);
    }
  }
  return [...totals.values()].sort((a, b) => b.applied - a.applied || b.matches - a.matches || b.attempts - a.attempts);
}

function mergeDeclined(declined) {
  const merged = new Map();
  for (const one of declined) {
    const key = `${one.rule}\n${one.reason}`;
    const found = merged.get(key);
    if (found) found.count = Math.max(found.count, one.count);
    else merged.set(key, { ...one });
  }
  return [...merged.values()].sort((a, b) => b.count - a.count);
}

function ruleTable(shown) {
  if (!shown.length) return el("p", { class: "empty" }, "None.");
  const why = (rule) => Object.entries(rule.reasons).map(([reason, count]) => `${reason} (${count})`).join("; ");
  return table(
    ["rule", "attempts", "matches", "applied", "time", "declined because"],
    shown.map((rule) => [el("code", {}, rule.name), rule.attempts, rule.matches, rule.applied, seconds(rule.seconds), why(rule)]),
    5,
  );
}
