"use strict";
/* Draws the page's charts from the packed data. Names from the table only ever become text. */
(async function () {
  const byAttribute = (name) => [...document.querySelectorAll(`[data-${name}]`)];
  const ready = (state) => { document.documentElement.dataset.state = state; };

  async function unpack() {
    const text = document.getElementById("payload").textContent.trim();
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function rowsOf(columns) {
    const names = Object.keys(columns);
    const size = names.length ? columns[names[0]].length : 0;
    return Array.from({ length: size }, (_, i) =>
      Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function config() {
    const [ink, dim, line, none] = [css("--ink"), css("--dim"), css("--line"), css("--null")];
    const font = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif";
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      title: { color: ink, subtitleColor: dim, fontSize: 12, fontWeight: 600, subtitleFontSize: 11 },
      axis: {
        labelColor: dim, titleColor: dim, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", labelOverlap: true,
        tickCount: 5, labelPadding: 4,
      },
      header: { labelColor: ink, labelFontSize: 12, labelFontWeight: 600, labelPadding: 6 },
      legend: { labelColor: ink, titleColor: dim, titleFontWeight: "normal", labelFontSize: 12, labelLimit: 240, columns: 3 },
      mark: { color: none }, // only nulls and the anchor have no colour of their own
      area: { color: css("--band"), opacity: 0.8 },
    };
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  function showTip(_, event, __, value) {
    tip.hidden = value == null || value === "";
    if (tip.hidden) return;
    tip.textContent = typeof value === "object"
      ? Object.entries(value).map(([key, text]) => `${key}: ${text}`).join("\n") : String(value);
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  }

  const views = new Map();

  async function draw(element, spec, rows) {
    const full = { ...spec, data: { values: rows }, config: config() };
    const runtime = vega.parse(vegaLite.compile(full).spec, null, { ast: true });
    const view = new vega.View(runtime, {
      expr: vegaInterpreter.expressionInterpreter,
      renderer: rows.length > 6000 ? "canvas" : "svg",
      tooltip: showTip,
      container: element,
      hover: true,
      logLevel: vega.Error,
    });
    views.get(element)?.finalize();
    views.set(element, view);
    await view.runAsync();
  }

  function tableOf(element, rows, names) {
    if (!element) return;
    const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
    const head = document.createElement("tr");
    head.append(...names.map((name) => make("th", name)));
    const body = rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...names.map((name) => make("td", row[name] ?? "–")));
      return line;
    });
    const table = document.createElement("table");
    table.append(document.createElement("thead"), document.createElement("tbody"));
    table.tHead.append(head);
    table.tBodies[0].append(...body);
    element.replaceChildren(table);
  }

  const find = (kind, key) => document.querySelector(`[data-${kind}="${key}"]`);

  async function drawMap(atlas, all) {
    const element = find("atlas", "heat");
    if (!element) return;
    const form = new FormData(document.getElementById("map-controls"));
    const excess = form.get("of") === "excess";
    const shown = (row) => !excess ? row.value : row.null == null ? null : row.value - row.null;
    const same = all.filter((row) => row.quantity === form.get("quantity"));
    const own = same.filter((row) => row.arm === atlas.arms[form.get("arm")]);
    const numbers = (form.get("scale") === "own" ? own : same)
      .map(shown).filter((value) => value != null);
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const reach = Math.max(Math.abs(low), Math.abs(high), 1e-12);
    const tone = (value) => excess
      ? (Math.abs(value) > 0.55 * reach ? "#ffffff" : css("--ink"))
      : (value - low > 0.55 * (high - low) ? "#101418" : "#ffffff");
    const rows = own.map((row) => ({ ...row, shown: shown(row) }))
      .filter((row) => row.shown != null).map((row) => ({ ...row, tone: tone(row.shown) }));
    const spec = structuredClone(atlas.heat);
    spec.layer[0].encoding.color.scale = excess
      ? { domain: [-reach, 0, reach], range: ["#c8503a", css("--band"), "#2e7fd6"],
          interpolate: "lab" }
      : { scheme: "viridis", domain: [low, high] };
    if (!rows.length) {
      element.textContent = "Nothing to show: this quantity has no such reading for this arm.";
      return;
    }
    element.replaceChildren();
    await draw(element, spec, rows);
    tableOf(find("table", "heat"), rows, ["role", "layer", "tensor", "value", "null"]);
  }

  async function drawCurves(atlas, curves) {
    const form = document.getElementById("curve-controls");
    if (!form) return;
    const tensor = atlas.tensors[new FormData(form).get("tensor")];
    for (const [key, all] of Object.entries(curves)) {
      const rows = all.filter((row) => row.tensor === tensor);
      const element = find("atlas", key);
      element.replaceChildren();
      if (rows.length) await draw(element, atlas[key], rows);
      else element.textContent = "No curve of this matrix in the table.";
      tableOf(find("table", key), rows, ["arm", "kind", "index", "value"]);
    }
  }

  try {
    const { charts, atlas = {} } = await unpack(); // a page without maps has no atlas
    const rows = new Map(Object.entries(charts).map(([key, held]) => [key, rowsOf(held.rows)]));
    const map = rowsOf(atlas.map ?? {});
    const curves = Object.fromEntries(
      [["spectrum", "spectra"], ["angle", "angles"], ["block", "blocks"]]
        .map(([key, table]) => [key, rowsOf(atlas[table] ?? {})]));
    const pause = () => new Promise((done) => setTimeout(done));
    const drawAll = async () => {
      ready("drawing");
      for (const element of byAttribute("chart")) {
        const held = charts[element.dataset.chart];
        if (held) await draw(element, held.spec, rows.get(element.dataset.chart));
        await pause();
      }
      await drawMap(atlas, map);
      await drawCurves(atlas, curves);
      ready("drawn");
    };
    for (const form of document.forms) form.addEventListener("submit", (e) => e.preventDefault());
    document.getElementById("map-controls")
      ?.addEventListener("change", () => drawMap(atlas, map));
    document.getElementById("curve-controls")
      ?.addEventListener("change", () => drawCurves(atlas, curves));
    addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll(".claim details, .rule")) details.open = true;
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    await drawAll();
  } catch (error) {
    document.getElementById("broken").hidden = false;
    ready("failed");
    console.error(error);
  }
})();
