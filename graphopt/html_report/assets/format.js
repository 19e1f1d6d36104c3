// Numbers for people.

const MINUS = "−";

function quantity(value) {
  for (const [unit, scale] of [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(value) >= scale * (unit === "k" ? 10 : 1)) return `${digits(value / scale)}${unit}`;
  }
  return Number.isInteger(value) ? String(value) : digits(value);
}

// 383000 → 383 kFLOP
const flop = (value, unit = "FLOP") => `${quantity(value).replace(/[A-Za-z]?$/, " $&")}${unit}`;

function digits(value) {
  return String(Number(value.toPrecision(3)));
}

function bytes(value) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= scale) return `${digits(value / scale)} ${unit}`;
  }
  return `${digits(value)} B`;
}

function seconds(value) {
  if (!value) return "";
  if (value >= 1) return `${digits(value)} s`;
  return value >= 1e-3 ? `${digits(value * 1e3)} ms` : `${digits(value * 1e6)} µs`;
}

// 1.2e-7 as 1.2 × 10⁻⁷ reads badly in tables; the short form stays.
function small(value) {
  const number = Number(value);
  if (value === null || value === undefined || Number.isNaN(number)) return "";
  if (number === 0) return "0";
  if (!Number.isFinite(number)) return "∞";
  return Math.abs(number) < 0.01 ? number.toExponential(1).replace("-", MINUS) : digits(number);
}

function change(before, after) {
  if (!before || before === after) return "";
  const share = (after - before) / before;
  const shown = Math.abs(share) < 0.1 ? (share * 100).toFixed(1) : (share * 100).toFixed(0);
  if (Number(shown) === 0) return "";
  return `${share > 0 ? "+" : MINUS}${shown.replace("-", "")} %`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
