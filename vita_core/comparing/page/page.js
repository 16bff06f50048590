"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const figures = document.getElementById("figures").textContent;
const config = { displayModeBar: false, responsive: true };

// The colours of the charts are properties of the style sheet, which plotly cannot read.
function coloured(text) {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(text, (key, value) => {
    const found = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
    return found ? style.getPropertyValue(found[1]).trim() : value;
  });
}

function draw() {
  for (const [id, figure] of Object.entries(coloured(figures))) {
    Plotly.react(id, figure.data, figure.layout, config);
  }
}

function say(text) {
  document.querySelector("[role=status]").textContent = text;
}

const collator = new Intl.Collator("en", { numeric: true });

function compare(first, second) {
  const numbers = [Number(first), Number(second)];
  return numbers.some(Number.isNaN) ? collator.compare(first, second) : numbers[0] - numbers[1];
}

function sort(table, head) {
  const heads = [...head.parentElement.children];
  const now = head.getAttribute("aria-sort");
  const first = head.hasAttribute("data-falls") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = now === first ? other : first;
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const column = heads.indexOf(head);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [row.cells[column]?.dataset.key, row]);
  rows.sort(([a], [b]) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * compare(a, b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  say(`sorted by ${head.textContent.trim()}, ${order}`);
}

function filter(table, words, count) {
  const rows = [...table.tBodies[0].rows];
  const wanted = words.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
  const left = rows.filter((row) => !row.hidden).length;
  count.textContent = words.trim() ? `${left} of ${rows.length} rows` : `${rows.length} rows`;
}

for (const table of document.querySelectorAll("table[data-table]")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button") && event.target.closest("th");
    if (head) sort(table, head);
  });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
  const tools = field.closest(".tools");
  tools.hidden = false;
  const table = document.querySelector(`table[data-table="${field.dataset.filter}"]`);
  field.addEventListener("input", () => filter(table, field.value, tools.querySelector("output")));
}

for (const button of document.querySelectorAll("button[data-chart]")) {
  const id = button.dataset.chart;
  button.hidden = false;
  button.addEventListener("click", () => Plotly.downloadImage(id, { filename: id, format: "svg" }));
}

if (window.Plotly) {
  draw();
  dark.addEventListener("change", draw);
}
// On paper, what is folded is open, and a chart is as wide as a sheet (A4 or letter).
const sheet = 620;
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
  for (const chart of document.querySelectorAll(".chart")) Plotly.relayout(chart, { width: sheet });
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = false;
  for (const chart of document.querySelectorAll(".chart")) Plotly.relayout(chart, { autosize: true, width: null });
});
