"use strict";
// Sorting, filtering and the theme. Data enter the page as text only, never as markup.
const $ = (id) => document.getElementById(id);
const root = document.documentElement;

// Theme: what the system prefers, until one is chosen here.
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const label = () => { $("theme").textContent = dark() ? "light" : "dark"; };
$("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
label();

const compare = (a, b) => {
  if (a === null || a === undefined || a === "") return b === null || b === undefined || b === "" ? 0 : 1; // unknown last
  if (b === null || b === undefined || b === "") return -1;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
};
const unknown = (v) => v === null || v === undefined || v === "";
const ordered = (a, b, way) => (unknown(a) || unknown(b) ? compare(a, b) : way * compare(a, b));
const turn = (heads, th) => {
  const way = th.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of heads) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
  return way;
};

// Small tables: their rows are moved.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((th, i) => th.querySelector("button").addEventListener("click", () => {
    const way = turn(heads, th);
    const key = (row) => {
      const cell = row.cells[i];
      return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent;
    };
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort((a, b) => ordered(a[0], b[0], way));
    table.tBodies[0].append(...rows.map((r) => r[1]));
  }));
}

// The table of all rows: a page of it exists at a time.
const data = JSON.parse($("data").textContent);
const { columns, rows: cells } = data;
const count = cells.length ? cells[0].length : 0;
const PAGE = 50;
const numeric = cells.map((c) => c.every((v) => v === null || typeof v === "number"));
let order = [...Array(count).keys()];
let kept = order;
let page = 0;

const TEST = /^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/;
const operators = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b };
const tests = (text) => text.trim().split(/\s+/).filter(Boolean).map((word) => {
  const found = TEST.exec(word);
  const column = found ? columns.indexOf(found[1]) : -1;
  if (column < 0) {
    const low = word.toLowerCase();
    return (i) => cells.some((c) => c[i] !== null && String(c[i]).toLowerCase().includes(low));
  }
  const value = numeric[column] ? Number(found[3]) : found[3];
  return (i) => cells[column][i] !== null && operators[found[2]](cells[column][i], value);
});

const show = () => {
  const pages = Math.max(1, Math.ceil(kept.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const body = document.createElement("tbody");
  for (const i of kept.slice(page * PAGE, (page + 1) * PAGE)) {
    const row = body.insertRow();
    columns.forEach((_, c) => {
      const cell = row.insertCell();
      cell.textContent = cells[c][i] === null ? "–" : String(cells[c][i]).replace(/^-(?=\d)/, "−");
      if (numeric[c]) cell.className = "n";
    });
  }
  $("rows").tBodies[0].replaceWith(body);
  $("shown").textContent = `${kept.length.toLocaleString("en")} of ${count.toLocaleString("en")}`;
  $("page").textContent = `page ${page + 1} of ${pages}`;
  $("back").disabled = page === 0;
  $("on").disabled = page === pages - 1;
};
const sift = () => {
  const all = tests($("filter").value);
  kept = all.length ? order.filter((i) => all.every((t) => t(i))) : order;
  page = 0;
  show();
};

const head = $("rows").tHead.insertRow();
const heads = columns.map((name, c) => {
  const th = document.createElement("th");
  th.scope = "col";
  if (numeric[c]) th.className = "n";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => {
    const way = turn(heads, th);
    order = [...order].sort((a, b) => ordered(cells[c][a], cells[c][b], way));
    sift();
  });
  th.append(button);
  head.append(th);
  return th;
});
$("filter").addEventListener("input", sift);
$("back").addEventListener("click", () => { page -= 1; show(); });
$("on").addEventListener("click", () => { page += 1; show(); });
$("save").addEventListener("click", () => {
  // A spreadsheet runs text that begins like a formula.
  const quote = (v) => (v === null ? "" : typeof v === "number" ? String(v) : `"${String(v).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`);
  const lines = [columns.map(quote).join(","), ...kept.map((i) => cells.map((c) => quote(c[i])).join(","))];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "rows.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
show();
root.dataset.ready = "yes";
