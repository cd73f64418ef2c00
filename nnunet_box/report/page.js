// Draws the charts with Observable Plot, sorts and filters the table of cases, switches outlines. Loads nothing.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const chosen = document.getElementById("model");
  const colourOf = (label) => `var(--label-${label})`;
  const titles = new Map(data.structures.map((structure) => [structure.label, structure.name]));
  const foldColour = (fold) => `var(--fold-${fold})`;

  function legend(entries) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const [text, colour] of entries) {
      const item = document.createElement("li");
      const mark = document.createElement("span");
      mark.className = "swatch";
      mark.setAttribute("aria-hidden", "true");
      mark.style.setProperty("--c", colour);
      item.append(mark, text);
      list.append(item);
    }
    return list;
  }

  const base = (width, more) => ({
    width,
    height: 260,
    marginLeft: 48,
    marginBottom: 42,
    style: { background: "transparent", color: "currentColor", fontSize: "12px" },
    ...more,
  });

  function byAxis(width, key, unit) {
    const points = data.cases.flatMap((one) => ["Z", "Y", "X"].map((axis, at) => ({ id: one.id, axis, value: one[key][at] })));
    const [least, most] = d3.extent(points, (point) => point.value);
    return [Plot.plot(base(width, {
      height: 170,
      x: { label: unit, grid: true, ...(least === most ? { domain: [least * 0.9, most * 1.1] } : { nice: true }) },
      y: { label: null, domain: ["Z", "Y", "X"] },
      marks: [
        Plot.dot(points, { x: "value", y: "axis", r: 3, stroke: "currentColor", strokeOpacity: 0.45, channels: { case: "id" }, tip: { format: { y: true } } }),
      ],
    }))];
  }

  function spread(width, points, options) {
    const names = data.structures.map((structure) => structure.name);
    return Plot.plot(base(width, {
      height: 60 + 46 * names.length,
      marginLeft: Math.min(150, 20 + 7 * Math.max(...names.map((name) => name.length))),
      x: { grid: true, ...options },
      y: { label: null, domain: names },
      marks: [
        Plot.boxX(points, { x: "value", y: "name", stroke: "currentColor", fill: "currentColor", fillOpacity: 0.12, r: 0 }),
        Plot.dot(points, { x: "value", y: "name", r: 2.5, fill: (d) => colourOf(d.label), fillOpacity: 0.8, channels: { case: "id" }, tip: true }),
      ],
    }));
  }

  const drawers = {
    spacings: (width) => byAxis(width, "spacing", "mm"),
    shapes: (width) => byAxis(width, "shape", "voxels"),
    volumes: (width) => {
      const points = data.cases.flatMap((one) => data.structures
        .map(({ label, name }) => ({ id: one.id, label, name, value: one.volumes[label] }))
        .filter((point) => point.value > 0));
      const values = points.map((point) => point.value);
      const wide = values.length > 0 && Math.max(...values) / Math.min(...values) > 50;
      return [spread(width, points, wide ? { type: "log", label: "ml (logarithmic)" } : { label: "ml", zero: true })];
    },
    intensities: (width, at) => {
      const histogram = data.histograms[Number(at)];
      const step = (histogram.largest - histogram.least) / histogram.voxels.length;
      const lines = [["all voxels", "currentColor", histogram.voxels],
        ...Object.entries(histogram.structures).map(([label, shares]) => [titles.get(Number(label)) ?? label, colourOf(label), shares])];
      const points = lines.flatMap(([name, colour, shares]) => shares.map((share, bin) => ({ name, colour, share: 100 * share, value: histogram.least + (bin + 0.5) * step })));
      return [legend(lines.map(([name, colour]) => [name, colour])), Plot.plot(base(width, {
        x: { label: histogram.unit },
        y: { label: "% of its voxels", grid: true },
        marks: [Plot.ruleY([0]), Plot.lineY(points, { x: "value", y: "share", z: "name", stroke: "colour", strokeWidth: 1.75 })],
      }))];
    },
    loss: (width, model) => curves(width, model, 1, { label: "loss" }),
    dice: (width, model) => curves(width, model, 2, { label: "Dice", domain: [0, 1] }),
    distribution: (width) => {
      const model = chosen.value;
      const points = Object.entries(data.scores[model]).flatMap(([id, values]) => data.structures
        .map(({ label, name }, at) => ({ id, label, name, value: values[1 + at] }))
        .filter((point) => point.value !== null));
      return [spread(width, points, { label: "Dice", domain: [0, 1] })];
    },
  };

  function curves(width, model, at, y) {
    const runs = data.curves[model];
    const points = runs.flatMap(({ fold, epochs }) => epochs.map((epoch) => ({ fold, epoch: epoch[0], value: epoch[at] })).filter((point) => point.value !== null));
    if (!points.length) return [document.createTextNode("No values were logged.")];
    return [legend(runs.map(({ fold }) => [`fold ${fold}`, foldColour(fold)])), Plot.plot(base(width, {
      x: { label: "epoch" },
      y: { grid: true, ...y },
      marks: [
        Plot.lineY(points, { x: "epoch", y: "value", z: "fold", stroke: (d) => foldColour(d.fold), strokeWidth: 1.5 }),
        Plot.dot(points, Plot.pointerX({ x: "epoch", y: "value", stroke: (d) => foldColour(d.fold), channels: { fold: "fold" }, tip: true })),
      ],
    }))];
  }

  function draw(figure) {
    const place = figure.querySelector(".plot");
    const width = Math.max(240, Math.floor(place.clientWidth));
    const parts = drawers[figure.dataset.chart](width, figure.dataset.of);
    const caption = figure.querySelector("figcaption").textContent.trim().replace(/\s+/g, " ");
    for (const part of parts) {
      if (part.nodeType !== Node.ELEMENT_NODE) continue;
      if (!part.matches("svg")) continue;
      part.setAttribute("role", "img");
      part.setAttribute("aria-label", `Chart: ${caption}`);
      // Plot names its marks; within a picture that has a name they may not have one.
      for (const mark of part.querySelectorAll("[aria-label]")) {
        mark.dataset.mark = mark.getAttribute("aria-label");
        mark.removeAttribute("aria-label");
      }
    }
    place.replaceChildren(...parts);
  }

  const figures = [...document.querySelectorAll("figure.chart")];
  const widths = new WeakMap();
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const width = Math.floor(contentRect.width);
      if (widths.get(target) === width) continue;
      widths.set(target, width);
      draw(target.closest("figure"));
    }
  });
  for (const figure of figures) observer.observe(figure.querySelector(".plot"));

  // The table of cases.
  const table = document.getElementById("cases");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const filters = ["filter-text", "filter-fold", "filter-below"].map((id) => document.getElementById(id));
    const number = (cell) => (cell.textContent.trim() === "–" ? NaN : Number(cell.textContent));
    const show = (cell, value) => {
      if (value === null) {
        const none = document.createElement("span");
        none.className = "none";
        none.title = "neither has it";
        none.textContent = "–";
        cell.replaceChildren(none);
      } else cell.textContent = value.toFixed(4);
    };

    const sort = () => {
      const head = table.tHead.querySelector('th:is([aria-sort="ascending"], [aria-sort="descending"])');
      const column = head.cellIndex;
      const sign = head.ariaSort === "ascending" ? 1 : -1;
      const text = head.querySelector("button").dataset.sort === "text";
      rows.sort((one, other) => {
        if (text) return sign * one.cells[column].textContent.localeCompare(other.cells[column].textContent, undefined, { numeric: true });
        const [a, b] = [number(one.cells[column]), number(other.cells[column])];
        // What has no number comes last, whichever way.
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return sign * (a - b);
      });
      body.append(...rows);
    };

    const filter = () => {
      const [words, fold, below] = filters.map((input) => input.value.trim().toLowerCase());
      let shown = 0;
      for (const row of rows) {
        const named = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
        const mean = number(row.cells[3]);
        row.hidden = !(named.includes(words) && (fold === "" || row.cells[2].textContent.trim() === fold) && (below === "" || mean < Number(below)));
        shown += row.hidden ? 0 : 1;
      }
      document.getElementById("shown-count").textContent = `${shown} of ${rows.length} cases`;
    };

    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("button")?.closest("th");
      if (!head) return;
      const next = head.ariaSort === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
      head.ariaSort = next;
      sort();
    });
    for (const input of filters) input.addEventListener("input", filter);
    chosen.addEventListener("change", () => {
      const scores = data.scores[chosen.value];
      document.getElementById("table-model").textContent = chosen.value;
      for (const row of rows) {
        const values = scores[row.dataset.case] ?? [null, ...data.structures.map(() => null)];
        values.forEach((value, at) => show(row.cells[3 + at], value));
      }
      sort();
      filter();
      draw(document.querySelector('[data-chart="distribution"]'));
    });
  }

  // Outlines.
  const pictures = document.getElementById("pictures");
  pictures?.addEventListener("change", ({ target }) => {
    const { outline, structure } = target.dataset;
    if (outline) pictures.classList.toggle(`hide-${outline}`, !target.checked);
    if (structure) for (const path of pictures.querySelectorAll(`.planes path[data-label="${structure}"]`)) path.toggleAttribute("hidden", !target.checked);
  });

  // Colours.
  for (const button of document.querySelectorAll("[data-theme-choice]")) button.addEventListener("click", () => {
    const choice = button.dataset.themeChoice;
    if (choice === "auto") delete root.dataset.theme;
    else root.dataset.theme = choice;
    for (const other of document.querySelectorAll("[data-theme-choice]")) other.setAttribute("aria-pressed", String(other === button));
  });
})();
