// Sorts tables by a column, and filters tables and the contact sheet by a text. Without this script, all rows are shown.
"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
}

function compare(one, other) {
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
}

function sort(table, heading) {
  const column = heading.cellIndex;
  // Numbers begin with the largest one, texts with the first one of the alphabet.
  const first = heading.classList.contains("number") ? "descending" : "ascending";
  const second = first === "descending" ? "ascending" : "descending";
  const order = heading.getAttribute("aria-sort") === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  rows.sort((one, other) => sign * compare(one[0], other[0]));
  body.append(...rows.map((pair) => pair[1]));
  for (const each of table.tHead.rows[0].cells) {
    each.setAttribute("aria-sort", each === heading ? order : "none");
  }
}

function filter(input) {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const target = document.getElementById(input.dataset.search);
  const items = target.tBodies ? target.tBodies[0].rows : target.children;
  let found = 0;
  for (const item of items) {
    const text = item.textContent.toLowerCase();
    item.hidden = !words.every((word) => text.includes(word));
    found += item.hidden ? 0 : 1;
  }
  const status = input.closest(".search").querySelector(".found");
  status.textContent = words.length ? `${found.toLocaleString("en")} of ${items.length.toLocaleString("en")}` : "";
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button").addEventListener("click", () => sort(table, heading));
  }
}
for (const input of document.querySelectorAll("input[data-search]")) {
  input.addEventListener("input", () => filter(input));
}
