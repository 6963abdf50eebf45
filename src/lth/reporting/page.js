"use strict";
// Draws the charts from the page's own data. Everything that is said in words or tables is in the page already.
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const dark = matchMedia("(prefers-color-scheme: dark)");
const styleOf = (name) => {
  const style = data.series[name];
  return dark.matches ? { ...style, color: d3.rgb(style.color).brighter(0.5).formatHex() } : style;
};
const shown = (rows) => rows.filter((row) => !hidden.has(row.series));
const asRows = (item) => item.rows.map((row) => Object.fromEntries(item.columns.map((name, i) => [name, row[i]])));
const text = (value) => (value === null ? "" : typeof value === "number" ? String(+value.toPrecision(6)) : value);
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

function bySeries(rows) {
  return [...d3.group(shown(rows), (row) => row.series)];
}

function tips(rows, chart) {
  const title = (d) =>
    `${d.series}\n${chart.x}: ${chart.kind === "sparsity" ? chart.ticks[d.x] : text(d.x)}\n${chart.y}: ${text(d.y)}` +
    (d.low === null ? "" : `\n95 %: ${text(d.low)} to ${text(d.high)}`) + `\nruns: ${d.runs}`;
  return Plot.tip(rows, Plot.pointer({ x: (d) => d.at ?? d.x, y: "y", title, maxRadius: 60, lineWidth: 40 }));
}

function line(rows, name, options = {}) {
  const s = styleOf(name);
  return Plot.line(rows, { x: (d) => d.at ?? d.x, y: "y", stroke: s.color, strokeWidth: 2, strokeDasharray: s.dash.join(" "), ...options });
}

function dots(rows, name) {
  const s = styleOf(name);
  const every = Math.ceil(rows.length / 8);
  return Plot.dot(rows.filter((_, i) => i % every === 0 || i === rows.length - 1), {
    x: (d) => d.at ?? d.x, y: "y", symbol: s.symbol, r: 4.5, stroke: s.color, strokeWidth: 1.8,
    fill: s.hollow ? "var(--card)" : s.color,
  });
}

function band(rows, name, options = {}) {
  const some = rows.filter((d) => d.low !== null);
  return Plot.areaY(some, { x: "x", y1: "low", y2: "high", fill: styleOf(name).color, fillOpacity: 0.16, ...options });
}

const draw = {
  curve(chart, rows) {
    const groups = bySeries(rows);
    return {
      x: { label: chart.x + " →", tickFormat: "~s", ticks: 5 },
      marks: [...groups.map(([name, r]) => band(r, name)), ...groups.flatMap(([name, r]) => [line(r, name), dots(r, name)]), tips(shown(rows), chart)],
    };
  },
  profile(chart, rows) {
    const curve = "step-after";
    const groups = bySeries(rows);
    return {
      x: { label: chart.x + " →" }, y: { domain: [0, 1] },
      marks: [...groups.map(([name, r]) => band(r, name, { curve })), ...groups.map(([name, r]) => line(r, name, { curve })), tips(shown(rows), chart)],
    };
  },
  sparsity(chart, rows) {
    const names = [...new Set(rows.map((row) => row.series))];
    const end = chart.ticks.length - 0.5;
    const marks = [], pointed = [];
    for (const [name, some] of bySeries(rows)) {
      const s = styleOf(name);
      if (name === "dense") {
        const across = [-0.5, end].map((x) => ({ ...some[0], x }));
        marks.unshift(band(across, name, { fillOpacity: 0.3 }), Plot.line(across, { x: "x", y: "y", stroke: s.color, strokeWidth: 2 }));
        pointed.push(...some);
        continue;
      }
      const place = (names.indexOf(name) - (names.length - 1) / 2) * (0.5 / names.length);
      const moved = some.map((row) => ({ ...row, at: row.x + place }));
      marks.push(Plot.ruleX(moved.filter((d) => d.low !== null), { x: "at", y1: "low", y2: "high", stroke: s.color, strokeWidth: 1.5 }));
      marks.push(line(moved, name, { strokeOpacity: 0.6 }), dots(moved, name));
      pointed.push(...moved);
    }
    const ticks = d3.range(chart.ticks.length);
    return {
      x: { label: chart.x + " →", domain: [-0.5, end], ticks, tickFormat: (i) => chart.ticks[i] },
      marks: [...marks, tips(pointed, chart)],
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
        Plot.cell(some, { x: "series", y: "row", fill: "share", inset: 0.5, title: (d) => `${d.series}, ${d.row}: ${text(d.share)}`, tip: true }),
        names.length > 60 ? null : Plot.text(some, { x: "series", y: "row", text: (d) => d.share.toFixed(2), fill: (d) => (d.share < 0.5 ? "white" : "black"), fontSize: 11 }),
      ],
    };
  },
};

function card(chart) {
  const rows = asRows(chart);
  const place = element("div");
  const details = element("details", {}, element("summary", { textContent: "Data" }));
  const name = `lth-${chart.kind}-${chart.title}`.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const made = element("figure", {},
    element("figcaption", { textContent: chart.title }), place,
    element("div", { className: "save" },
      element("button", { type: "button", textContent: "Save SVG", onclick: () => save(name + ".svg", toSvg(place, chart)) }),
      element("button", { type: "button", textContent: "Save PNG", onclick: () => savePng(name + ".png", toSvg(place, chart)) })),
    details);
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(table(chart)));
  made.draw = () => {
    const { marks, ...options } = draw[chart.kind](chart, rows);
    const plot = Plot.plot({
      width: Math.max(place.clientWidth, 280), height: 290, marginLeft: 58, marginBottom: 42,
      style: { background: "transparent", color: "var(--fg)", fontSize: "12px" },
      ...options, y: { label: chart.kind === "picture" ? null : "↑ " + chart.y, grid: true, nice: true, ...options.y }, marks,
    });
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `${chart.title}; its data is in the table below`);
    place.replaceChildren(plot);
  };
  return made;
}

function table(chart) {
  const cells = (tag, row) => row.map((value, i) => element(tag, { textContent: text(value), className: typeof chart.rows[0][i] === "string" ? "t" : "" }));
  const named = (row) => (chart.kind === "sparsity" ? row.map((v, i) => (chart.columns[i] === "x" ? chart.ticks[v] : v)) : row);
  const body = chart.rows.map((row) => element("tr", {}, ...cells("td", named(row))));
  return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", chart.columns))), element("tbody", {}, ...body)));
}

// A saved picture stands alone: colours as they are on the page, with title and legend.
function toSvg(place, chart) {
  const css = getComputedStyle(document.documentElement);
  const svg = place.querySelector("svg").cloneNode(true);
  const [width, height] = ["width", "height"].map((side) => +svg.getAttribute(side));
  const names = chart.kind === "picture" ? [] : [...new Set(chart.rows.map((row) => row[0]))].filter((name) => !hidden.has(name));
  const columns = Math.max(1, Math.floor(width / 170));
  const below = 24 * Math.ceil(names.length / columns), above = 26;
  const legend = names.map((name, i) => `<g transform="translate(${12 + (i % columns) * 170},${height + 14 + 24 * Math.floor(i / columns)})">${swatch(name)}<text x="40" y="4">${escaped(name)}</text></g>`);
  svg.removeAttribute("class");
  svg.querySelectorAll("[aria-label=tip]").forEach((tip) => tip.remove());
  const text = new XMLSerializer().serializeToString(svg).replace(/var\((--[a-z-]+)\)/g, (_, name) => css.getPropertyValue(name).trim() || "none");
  const color = css.getPropertyValue("--fg").trim(), background = css.getPropertyValue("--bg").trim();
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height + above + below}" viewBox="0 ${-above} ${width} ${height + above + below}" font-family="system-ui, sans-serif" font-size="12" fill="${color}" color="${color}"><rect y="${-above}" width="100%" height="100%" fill="${background}"/><text x="8" y="-9" font-weight="600" font-size="13">${escaped(chart.title)}</text>${text}${legend.join("")}</svg>`;
}

const escaped = (words) => words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);

function swatch(name) {
  const s = styleOf(name);
  const path = d3.symbol(d3["symbol" + s.symbol[0].toUpperCase() + s.symbol.slice(1)], 50)();
  const whole = ["asterisk", "times", "plus"].includes(s.symbol) || s.hollow;
  return `<line x2="32" stroke="${s.color}" stroke-width="2" stroke-dasharray="${s.dash.join(" ")}"/><path d="${path}" transform="translate(16,0)" stroke="${s.color}" stroke-width="1.6" fill="${whole ? "none" : s.color}"/>`;
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

const cards = [];
for (const place of document.querySelectorAll(".charts")) {
  for (const chart of data.charts.filter((one) => one.section === place.dataset.section)) {
    const made = card(chart);
    place.append(made);
    cards.push(made);
  }
}
function legend() {
  const buttons = Object.keys(data.series).map((name) => {
    const button = element("button", { type: "button", title: "show or hide", onclick: () => toggle(name) });
    button.innerHTML = `<svg width="34" height="14" viewBox="-1 -7 34 14" aria-hidden="true">${swatch(name)}</svg>`;
    button.append(name);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    return button;
  });
  document.getElementById("series").replaceChildren(...buttons);
}

function toggle(name) {
  hidden.has(name) ? hidden.delete(name) : hidden.add(name);
  show();
}

function show() {
  legend();
  cards.forEach((made) => made.draw());
}

document.getElementById("tidy").onclick = async () => {
  const bytes = Uint8Array.from(atob(data.tidy), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  save("tidy.csv", await new Response(stream).blob());
};
document.getElementById("config-save").onclick = () => save("report.yaml", document.getElementById("config-text").textContent, "text/yaml");

let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth !== width) {
    width = document.body.clientWidth;
    show();
  }
}).observe(document.body);
dark.addEventListener("change", show);
