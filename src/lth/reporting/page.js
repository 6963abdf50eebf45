"use strict";
// Shows the numbers behind charts, hides series, sorts tables and saves pictures. The charts are in the page already.
const data = JSON.parse(document.getElementById("data").textContent);
const plain = (words) => words.replaceAll("\u00a0", " ");
const unpacked = (packed) => {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
};
const hidden = new Set();
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
const number = (value) => (Math.abs(value) >= 1000 ? value.toLocaleString("en-US") : String(value));
// Three digits are as many as these runs support.
const text = (value) => (value === null ? "" : typeof value === "number" ? number(+value.toPrecision(3)) : value);
const fileName = (title) => "lth-" + title.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "");
const tip = document.body.appendChild(element("div", { id: "tip", hidden: true }));

function told([name, x, y, low, high, runs], chart) {
  const at = chart.ticks.length ? chart.ticks[x] : text(x);
  const interval = low === null ? "" : `\n95 % interval: ${text(low)} to ${text(high)}`;
  return `${name}\n${chart.x}: ${at}\n${chart.y}: ${text(y)}${interval}\nruns: ${runs}`;
}

// The point that the pointer is near: its series' band, and a note beside the pointer that stays on the screen.
function follow(svg, chart) {
  let points;
  const show = (near) => {
    for (const band of svg.querySelectorAll(".band")) {
      band.dataset.first ??= band.getAttribute("display") ?? "";
      const shown = !band.dataset.first || band.parentNode === near?.group;
      shown ? band.removeAttribute("display") : band.setAttribute("display", "none");
    }
    tip.hidden = !near;
    if (near) tip.textContent = told(near.row, chart);
  };
  svg.addEventListener("pointermove", (event) => {
    points ??= [...svg.querySelectorAll("[data-at]")].flatMap((group) => {
      const rows = chart.rows.filter((row) => row[0] === group.dataset.series);
      return group.dataset.at.split(" ").map((at, i) => ({ group, row: rows[i], at: at.split(",").map(Number) }));
    });
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const distance = ({ at }) => Math.hypot(at[0] - x, at[1] - y);
    const some = points.filter((point) => !hidden.has(point.row[0]) && distance(point) < 60);
    show(some.length ? some.reduce((one, other) => (distance(other) < distance(one) ? other : one)) : null);
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
    tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, event.clientY - height - 12)}px`;
  });
  svg.addEventListener("pointerleave", () => show(null));
}

// Columns that are the same throughout are said in the caption.
function table(chart, title) {
  const shown = (value, i) => (chart.ticks?.length && chart.columns[i] === "x" ? chart.ticks[value] : text(value));
  const [first] = chart.rows;
  const varied = chart.columns.map((_, i) => i === 0 || chart.rows.length === 1 || chart.rows.some((row) => row[i] !== first[i]));
  const cell = (value, i, tag, scope = {}) => element(tag, { textContent: value, className: typeof first[i] === "string" ? "t" : "", ...scope });
  const line = (row, tag) => element("tr", {}, ...row.map((value, i) => (tag === "th" ? cell(value, i, "th", { scope: "col" }) : i ? cell(shown(value, i), i, "td") : cell(shown(value, i), i, "th", { scope: "row" }))).filter((_, i) => varied[i]));
  const same = chart.columns.flatMap((name, i) => (varied[i] || first[i] === null ? [] : [`${name}: ${shown(first[i], i)}`]));
  const caption = element("caption", { textContent: title + (same.length ? `. Throughout: ${same.join("; ")}.` : "") });
  const body = element("tbody", {}, ...chart.rows.map((row) => line(row, "td")));
  const made = element("table", {}, caption, element("thead", {}, line(chart.columns, "th")), body);
  sortable(made);
  return element("div", { className: "scroll" }, made);
}

function sortable(made) {
  const heads = [...made.tHead.rows[0].cells];
  const value = (row, i) => {
    const words = row.cells[i].textContent;
    const found = parseFloat(words.replace(/,/g, ""));
    return Number.isNaN(found) ? words : found;
  };
  heads.forEach((head, i) => {
    const button = element("button", { type: "button", textContent: head.textContent, title: "sort" });
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...made.tBodies[0].rows].map((row) => [value(row, i), row]);
      rows.sort(([a], [b]) => (up ? 1 : -1) * (a < b ? -1 : a > b ? 1 : 0));
      made.tBodies[0].append(...rows.map(([, row]) => row));
    };
    head.replaceChildren(button);
  });
}

function buttons(figure, title) {
  const button = (kind, onclick) => element("button", { type: "button", textContent: `Save ${kind}`, ariaLabel: `Save ${kind}: ${title}`, onclick });
  const made = element("div", { className: "save" },
    button("SVG", () => save(fileName(title) + ".svg", toSvg(figure, title))),
    button("PNG", () => savePng(fileName(title) + ".png", toSvg(figure, title))));
  figure.insertBefore(made, figure.querySelector("details"));
}

// A saved picture stands alone: colors as they are on the page, with its title.
function toSvg(figure, title) {
  const drawn = figure.querySelector(".picture svg");
  const css = getComputedStyle(document.documentElement);
  const svg = drawn.cloneNode(true);
  const { width, height } = drawn.getBoundingClientRect();
  const above = 30, side = 12;
  for (const name of ["class", "style"]) svg.removeAttribute(name);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const escaped = title.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  const text = new XMLSerializer().serializeToString(svg);
  const whole = `<svg xmlns="http://www.w3.org/2000/svg" width="${width + 2 * side}" height="${height + above}" viewBox="${-side} ${-above} ${width + 2 * side} ${height + above}" font-family="system-ui, sans-serif" font-size="12" fill="var(--fg)" color="var(--fg)"><rect x="${-side}" y="${-above}" width="100%" height="100%" fill="var(--bg)"/><text y="-12" font-weight="600" font-size="13">${escaped}</text>${text}</svg>`;
  return whole.replace(/var\((--[a-z-]+)(?:,[^)]*)?\)/g, (_, name) => css.getPropertyValue(name).trim() || "none");
}

function save(name, content, type = "image/svg+xml") {
  const link = element("a", { download: name, href: URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function savePng(name, svg) {
  const image = new Image();
  image.onload = () => {
    const canvas = element("canvas", { width: image.width * 2, height: image.height * 2 });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(name, blob));
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(svg);
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("figure[data-title]").forEach((figure) => buttons(figure, figure.dataset.title));

function addData(figure, chart) {
  const title = figure.dataset.title;
  const details = element("details", {}, element("summary", {}, "Data", element("span", { className: "aloud", textContent: `: ${title}` })));
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(table(chart, title)));
  figure.append(details);
  if (chart.x) follow(figure.querySelector("svg"), chart);
}

unpacked(data.charts).json().then((charts) => {
  const behind = new Map(charts.map((chart) => [chart.title, chart]));
  for (const figure of document.querySelectorAll("figure[data-title]")) {
    const chart = behind.get(plain(figure.dataset.title));
    if (chart) addData(figure, chart);
  }
});

function toggle(name, button) {
  hidden.has(name) ? hidden.delete(name) : hidden.add(name);
  button.setAttribute("aria-pressed", String(!hidden.has(name)));
  for (const part of document.querySelectorAll("#toggled [data-series]")) part.style.display = hidden.has(part.dataset.series) ? "none" : "";
}

for (const [name, swatch] of Object.entries(data.series)) {
  const button = element("button", { type: "button", title: "show or hide", innerHTML: swatch, onclick: () => toggle(name, button) });
  button.append(name);
  button.setAttribute("aria-pressed", "true");
  document.getElementById("series").append(button);
}

document.getElementById("tidy").onclick = async () => {
  const columns = (await unpacked(data.tidy).text()).split("\0").map((column) => column.split("\n"));
  save("tidy.csv", columns[0].map((_, i) => columns.map((column) => column[i]).join(",")).join("\n").replace(/,*$/, ""), "text/csv");
};
document.getElementById("config-save").onclick = () => save("report.yaml", document.getElementById("config-text").textContent, "text/yaml");
