"use strict";
// Draws the figures, switches the theme, sorts tables and saves what is shown. Asks nobody for anything.
const views = {};
let data;
const read = unpacked(document.getElementById("data").textContent).then((found) => (data = found));

// The figures' data: JSON, compressed by gzip, in base64.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// A column is a list of numbers, or indices into its distinct texts; -1 stands for none.
function rowsOf(columns) {
  const read = Object.entries(columns).map(([name, column]) => {
    const at = column.codes ? (i) => column.levels[column.codes[i]] ?? null : (i) => column[i];
    return [name, at, (column.codes ?? column).length];
  });
  const count = read.length ? read[0][2] : 0;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(read.map(([name, at]) => [name, at(i)])));
}

function specOf(name, config) {
  const { spec, columns } = data.drawn[name];
  const copy = structuredClone(spec);
  copy.datasets = { table: rowsOf(columns) };
  copy.config = structuredClone(config);
  // A figure that is drawn again keeps what the reader chose.
  for (const param of copy.params ?? []) {
    if (param.bind && views[name]) param.value = views[name].signal(param.name);
  }
  return copy;
}

async function draw(chart) {
  const name = chart.dataset.figure;
  const { panels } = data.drawn[name];
  const width = chart.clientWidth;
  const spec = specOf(name, data.page);
  if (width < 500) {
    spec.config.axisY.labelLimit = Math.max(110, 0.5 * width);
    spec.config.legend.columns = 2;
    for (const param of spec.params ?? []) if (param.name === "room") param.value = 18;
  }
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: { theme: "custom" },
    bind: chart.parentElement.querySelector(".controls") };
  const embed = async () => {
    options.bind.replaceChildren();
    views[name]?.finalize();
    const shown = await vegaEmbed(chart, spec, options);
    views[name] = shown.view;
    return chart.querySelector("svg").getBoundingClientRect().width;
  };
  if (!panels) {
    spec.width = width;
    spec.autosize = { type: "fit-x", contains: "padding" };
    await embed();
    return;
  }
  // Panels: as many columns as fit, then one correction for the room that axes and labels really took.
  const cells = new Set(rowsOf(data.drawn[name].columns).map((row) => row[spec.facet.field])).size;
  const fitting = Math.max(1, Math.min(cells, Math.floor(width / panels)));
  spec.columns = Math.ceil(cells / Math.ceil(cells / fitting)); // 4 panels as 2 × 2 rather than 3 + 1
  spec.spec.width = Math.max(60, Math.floor(width / spec.columns) - 30);
  spec.config.header.labelLimit = spec.spec.width;
  const taken = await embed();
  spec.spec.width = Math.max(60, Math.floor(spec.spec.width - (taken - width + 4) / spec.columns));
  await embed();
}

async function drawAll() {
  try {
    await read;
  } catch {
    for (const chart of document.querySelectorAll(".chart")) chart.textContent = "This browser cannot draw it: see figures/.";
    return;
  }
  for (const chart of document.querySelectorAll(".chart")) await draw(chart);
  document.documentElement.dataset.drawn = "yes";
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveFigure(name, type) {
  await read;
  if (type === "csv") {
    const { columns } = data.drawn[name];
    saveRows(name, [Object.keys(columns), ...rowsOf(columns).map((row) => Object.values(row).map((value) => value ?? ""))]);
    return;
  }
  const spec = { ...specOf(name, data.paper), background: "white" };
  const { view } = await vegaEmbed(document.createElement("div"), spec, { mode: "vega-lite", actions: false, ast: true, renderer: "svg" });
  if (type === "svg") {
    save(`${name}.svg`, new Blob([await view.toSVG()], { type: "image/svg+xml" }));
  } else {
    const canvas = await view.toCanvas(2);
    canvas.toBlob((blob) => save(`${name}.png`, blob), "image/png");
  }
  view.finalize();
}

// A cell's number, with its true minus, thousands and powers of ten read back; NaN where it is text.
function numberIn(text) {
  const digits = { "⁰": 0, "¹": 1, "²": 2, "³": 3, "⁴": 4, "⁵": 5, "⁶": 6, "⁷": 7, "⁸": 8, "⁹": 9, "⁻": "-" };
  const plain = text.replaceAll("−", "-").replaceAll(",", "").replace("∞", "Infinity")
    .replace(/ × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)$/, (_, power) => "e" + [...power].map((c) => digits[c]).join(""));
  return plain.trim() === "" ? NaN : Number(plain);
}

function sort(heading) {
  const table = heading.closest("table");
  const column = [...heading.parentElement.children].indexOf(heading);
  const direction = heading.ariaSort === "ascending" ? -1 : 1;
  const key = (row) => row.children[column].textContent;
  const order = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "–" || y === "–") return (x === "–") - (y === "–"); // what is missing comes last either way
    const [m, n] = [numberIn(x), numberIn(y)];
    return direction * (Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : m === n ? 0 : m - n);
  };
  for (const other of heading.parentElement.children) other.ariaSort = null;
  heading.ariaSort = direction === 1 ? "ascending" : "descending";
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

function saveRows(name, rows) {
  const field = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const csv = rows.map((row) => row.map(field).join(",") + "\r\n").join("");
  save(`${name}.csv`, new Blob([csv], { type: "text/csv" }));
}

function saveTable(name) {
  const value = (text) => (Number.isNaN(numberIn(text)) ? (text === "–" ? "" : text) : numberIn(text));
  const rows = [...document.getElementById(`table-${name}`).rows];
  saveRows(name, rows.map((row) => [...row.cells].map((cell) => value(cell.textContent))));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "theme") {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  } else if (button.dataset.save) {
    saveFigure(button.closest("figure").querySelector(".chart").dataset.figure, button.dataset.save);
  } else if (button.dataset.csv) {
    saveTable(button.dataset.csv);
  } else if (button.parentElement.tagName === "TH") {
    sort(button.parentElement);
  }
});
addEventListener("beforeprint", () => (document.querySelector(".terms").open = true));
let waiting, seen = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === seen) return; // a phone's address bar changes the height alone
  seen = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 200);
});
drawAll();
