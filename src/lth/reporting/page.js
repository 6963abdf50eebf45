"use strict";
// Draws the charts from the page's own data, sorts tables, and saves pictures. All that is said in words, tables and static pictures
// is in the page already.
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const shown = (rows) => rows.filter((row) => !hidden.has(row.series));
const asRows = (item) => item.rows.map((row) => Object.fromEntries(item.columns.map((name, i) => [name, row[i]])));
const color = (name) => `var(--c-${data.series[name].name})`;
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

function bySeries(rows) {
  return [...d3.group(shown(rows), (row) => row.series)];
}

function line(rows, name, options = {}) {
  const dash = data.series[name].dash.join(" ");
  return Plot.line(rows, { x: (d) => d.at ?? d.x, y: "y", stroke: color(name), strokeWidth: 2, strokeDasharray: dash, ...options });
}

// Markers are paths of our own, the same as in the static pictures.
function dots(rows, name) {
  const every = Math.ceil(rows.length / 8);
  const some = rows.filter((_, i) => i % every === 0 || i === rows.length - 1);
  const render = (index, scales, values) => {
    const g = d3.create("svg:g");
    for (const i of index) g.append("g").attr("transform", `translate(${values.x[i]},${values.y[i]})`).html(marker(name));
    return g.node();
  };
  return Plot.dot(some, { x: (d) => d.at ?? d.x, y: "y", render });
}

function marker(name) {
  const s = data.series[name];
  return `<path d="${s.path}" stroke="${color(name)}" stroke-width="1.5" fill="${s.hollow ? "var(--card)" : color(name)}"/>`;
}

// Many bands over each other are mud: dense's is drawn, and that of the series that the pointer is at.
function band(rows, name, options = {}) {
  const some = rows.filter((d) => d.low !== null);
  const className = `band${name === "dense" ? "" : " pointed"}`;
  const mark = Plot.areaY(some, { x: "x", y1: "low", y2: "high", fill: color(name), fillOpacity: 0.18, ...options });
  const draw = mark.render;
  mark.render = function (...all) {
    const node = draw.apply(this, all);
    if (node) d3.select(node).attr("class", className).attr("data-series", name).attr("display", name === "dense" ? null : "none");
    return node;
  };
  return mark;
}

function pointed(rows) {
  return Plot.dot(rows, Plot.pointer({ x: (d) => d.at ?? d.x, y: "y", r: 8, stroke: "currentColor", maxRadius: 60 }));
}

const draw = {
  curve(chart, rows) {
    const groups = bySeries(rows);
    return {
      x: { label: chart.x + " →", tickFormat: number, ticks: 4 },
      marks: [...groups.map(([name, r]) => band(r, name)), ...groups.flatMap(([name, r]) => [line(r, name), dots(r, name)]), pointed(shown(rows))],
    };
  },
  time(chart, rows) {
    return draw.curve(chart, rows);
  },
  profile(chart, rows) {
    const curve = "step-after";
    const groups = bySeries(rows);
    return {
      x: { label: chart.x + " →" }, y: { domain: [0, 1] },
      marks: [...groups.map(([name, r]) => band(r, name, { curve })), ...groups.map(([name, r]) => line(r, name, { curve })), pointed(shown(rows))],
    };
  },
  sparsity(chart, rows) {
    const names = [...new Set(rows.map((row) => row.series))];
    const end = chart.ticks.length - 0.5;
    const marks = [], near = [];
    for (const [name, some] of bySeries(rows)) {
      if (name === "dense") {
        const across = [-0.5, end].map((x) => ({ ...some[0], x }));
        marks.unshift(band(across, name), line(across, name));
        near.push(...some);
        continue;
      }
      const place = (names.indexOf(name) - (names.length - 1) / 2) * (0.5 / names.length);
      const moved = some.map((row) => ({ ...row, at: row.x + place }));
      marks.push(Plot.ruleX(moved.filter((d) => d.low !== null), { x: "at", y1: "low", y2: "high", stroke: color(name), strokeWidth: 1.5 }));
      marks.push(line(moved, name), dots(moved, name));
      near.push(...moved);
    }
    const ticks = d3.range(chart.ticks.length);
    return {
      x: { label: chart.x + " →", domain: [-0.5, end], ticks, tickFormat: (i) => chart.ticks[i] },
      marks: [...marks, pointed(near)],
    };
  },
  picture(chart, rows) {
    const names = [...new Set(rows.map((row) => row.row))];
    const some = shown(rows);
    const widest = d3.max(names, (name) => name.length);
    return {
      height: 60 + Math.max(names.length * (names.length > 60 ? 12 : 22), 60),
      marginLeft: 14 + 6.4 * widest, marginBottom: 56,
      x: { label: null, tickRotate: -25, domain: [...new Set(some.map((row) => row.series))] },
      y: { label: null, domain: names, grid: false },
      color: { scheme: "cividis", domain: [0, 1], label: "share kept" },
      marks: [
        Plot.cell(some, { x: "series", y: "row", fill: "share", inset: 0.5 }),
        names.length > 60 ? null : Plot.text(some, { x: "series", y: "row", text: (d) => d.share.toFixed(2), fill: (d) => (d.share < 0.5 ? "white" : "black"), fontSize: 11, pointerEvents: "none" }),
        Plot.cell(some, Plot.pointer({ x: "series", y: "row", stroke: "currentColor", strokeWidth: 2, fill: "none" })),
      ],
    };
  },
};

function told(d, chart) {
  if (chart.kind === "picture") return `${d.series}, ${d.row}: ${text(d.share)}`;
  const at = chart.kind === "sparsity" ? chart.ticks[d.x] : text(d.x);
  const interval = d.low === null ? "" : `\n95 % interval: ${text(d.low)} to ${text(d.high)}`;
  return `${d.series}\n${chart.x}: ${at}\n${chart.y}: ${text(d.y)}${interval}\nruns: ${d.runs}`;
}

// What the pointer is at: its band, and a note beside the pointer that stays on the screen.
function follow(plot, chart) {
  plot.addEventListener("input", () => {
    const name = plot.value?.series;
    d3.select(plot).selectAll("[data-series]").attr("display", function () {
      return [name, "dense"].includes(this.dataset.series) ? null : "none";
    });
    tip.hidden = !name;
    if (name) tip.textContent = told(plot.value, chart);
  });
  plot.addEventListener("pointermove", (event) => {
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
    tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, event.clientY - height - 12)}px`;
  });
  plot.addEventListener("pointerleave", () => (tip.hidden = true));
}

function card(chart) {
  const rows = asRows(chart);
  const place = element("div", { className: "picture" });
  const title = chart.kind === "picture" ? chart.title : `${heading[chart.section]}: ${chart.title}${chart.y.startsWith("success") ? ", by success" : ""}`;
  const details = element("details", {}, element("summary", {}, "Data", element("span", { className: "aloud", textContent: `: ${title}` })));
  const made = element("figure", {}, element("figcaption", {}, element("b", { textContent: title }), chart.finding), place, details);
  buttons(made, title, chart.kind === "picture" ? [] : [...new Set(chart.rows.map((row) => row[0]))]);
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(table(chart, title)));
  made.draw = () => {
    const { marks, ...options } = draw[chart.kind](chart, rows);
    const plot = Plot.plot({
      width: Math.max(place.clientWidth, 280), height: 290, marginLeft: 58, marginBottom: 42,
      style: { background: "transparent", color: "var(--fg)", fontSize: "12px" },
      ...options, y: { label: chart.kind === "picture" ? null : "↑ " + chart.y, grid: true, nice: true, tickFormat: chart.kind === "picture" ? undefined : number, ...options.y }, marks,
    });
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `${title}. ${chart.finding}`);
    follow(plot, chart);
    place.replaceChildren(plot);
  };
  return made;
}

function table(chart, title) {
  const cells = (tag, row) => row.map((value, i) => element(tag, { textContent: text(value), className: typeof chart.rows[0][i] === "string" ? "t" : "", ...(tag === "th" ? { scope: "col" } : {}) }));
  const named = (row) => (chart.kind === "sparsity" ? row.map((v, i) => (chart.columns[i] === "x" ? chart.ticks[v] : v)) : row);
  const body = chart.rows.map((row) => element("tr", {}, ...cells("td", named(row))));
  const made = element("table", {}, element("caption", { textContent: title }), element("thead", {}, element("tr", {}, ...cells("th", chart.columns))), element("tbody", {}, ...body));
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
      const rows = d3.sort([...made.tBodies[0].rows], (a, b) => (up ? 1 : -1) * d3.ascending(value(a, i), value(b, i)));
      made.tBodies[0].append(...rows);
    };
    head.replaceChildren(button);
  });
}

function buttons(figure, title, names) {
  const svg = () => toSvg(figure.querySelector(".picture svg"), title, names);
  const button = (kind, onclick) => element("button", { type: "button", textContent: `Save ${kind}`, ariaLabel: `Save ${kind}: ${title}`, onclick });
  figure.insertBefore(
    element("div", { className: "save" },
      button("SVG", () => save(fileName(title) + ".svg", svg())),
      button("PNG", () => savePng(fileName(title) + ".png", svg()))),
    figure.querySelector("details"));
}

// A saved picture stands alone: colours as they are on the page, with title and legend.
function toSvg(drawn, title, every) {
  const css = getComputedStyle(document.documentElement);
  const svg = drawn.cloneNode(true);
  const { width, height } = drawn.getBoundingClientRect();
  const names = every.filter((name) => !hidden.has(name));
  const columns = Math.max(1, Math.floor(width / 170));
  const below = 24 * Math.ceil(names.length / columns), above = 30, side = 12;
  const legend = names.map((name, i) => `<g transform="translate(${side + (i % columns) * 170},${height + 14 + 24 * Math.floor(i / columns)})">${swatch(name)}<text x="40" y="4">${escaped(name)}</text></g>`);
  svg.removeAttribute("class");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const text = new XMLSerializer().serializeToString(svg);
  const whole = `<svg xmlns="http://www.w3.org/2000/svg" width="${width + 2 * side}" height="${height + above + below}" viewBox="${-side} ${-above} ${width + 2 * side} ${height + above + below}" font-family="system-ui, sans-serif" font-size="12" fill="var(--fg)" color="var(--fg)"><rect x="${-side}" y="${-above}" width="100%" height="100%" fill="var(--bg)"/><text y="-12" font-weight="600" font-size="13">${escaped(title)}</text>${text}${legend.join("")}</svg>`;
  return whole.replace(/var\((--[a-z-]+)(?:,[^)]*)?\)/g, (_, name) => css.getPropertyValue(name).trim() || "none");
}

const escaped = (words) => words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);

function swatch(name) {
  return `<line x2="32" stroke="${color(name)}" stroke-width="2" stroke-dasharray="${data.series[name].dash.join(" ")}"/><g transform="translate(16,0)">${marker(name)}</g>`;
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
for (const figure of document.querySelectorAll("figure[data-title]"))
  if (figure.querySelector(".picture svg")) buttons(figure, figure.dataset.title, []);

const cards = [], heading = {};
for (const place of document.querySelectorAll(".charts")) {
  heading[place.dataset.section] = place.dataset.title;
  const single = element("div", { className: "charts" });
  for (const chart of data.charts.filter((one) => one.section === place.dataset.section)) {
    const made = card(chart);
    (chart.folded ? single : place).append(made);
    cards.push(made);
  }
  if (single.children.length) {
    const words = `${heading[place.dataset.section] || "Shares kept, other tasks and sparsities"}: ${single.children.length} more charts`;
    const fold = element("details", { className: "single" }, element("summary", { textContent: words }), single);
    fold.addEventListener("toggle", () => fold.open && [...single.children].forEach((made) => made.draw()));
    place.after(fold);
  }
}
function legend() {
  const made = Object.keys(data.series).map((name) => {
    const button = element("button", { type: "button", title: "show or hide", onclick: () => toggle(name) });
    button.innerHTML = `<svg width="34" height="14" viewBox="-1 -7 34 14" aria-hidden="true">${swatch(name)}</svg>`;
    button.append(name);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    return button;
  });
  document.getElementById("series").replaceChildren(...made);
}

function toggle(name) {
  hidden.has(name) ? hidden.delete(name) : hidden.add(name);
  show();
  [...document.querySelectorAll("#series button")].find((button) => button.textContent === name).focus();
}

function show() {
  legend();
  cards.filter((made) => made.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true })).forEach((made) => made.draw());
}

document.getElementById("tidy").onclick = async () => {
  const bytes = Uint8Array.from(atob(data.tidy), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  save("tidy.csv", await new Response(stream).blob());
};
document.getElementById("config-save").onclick = () => save("report.yaml", document.getElementById("config-text").textContent, "text/yaml");

// On paper nothing is folded.
const folds = () => document.querySelectorAll("details.single:not([open])");
addEventListener("beforeprint", () => folds().forEach((fold) => {
  fold.open = fold.dataset.printed = true;
  fold.querySelectorAll("figure").forEach((made) => made.draw());
}));
addEventListener("afterprint", () => document.querySelectorAll("details[data-printed]").forEach((fold) => (fold.open = false)));

let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth !== width) {
    width = document.body.clientWidth;
    show();
  }
}).observe(document.body);
