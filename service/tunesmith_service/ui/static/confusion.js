// A confusion matrix: a row a true class, a column what it was taken for. Click a cell for its samples.
"use strict";
(() => {
  const { css, viridis, isDark, choices, place } = Tunesmith;
  const MODES = { share: "row %", counts: "counts" };
  const sums = (counts) => counts.map((row) => row.reduce((a, b) => a + b, 0));

  // What each cell shows, by mode; the difference of two matrices is one of shares.
  function cells(view, ctx) {
    const mine = sums(view.counts);
    const theirs = view.less ? sums(view.less) : [];
    const share = (counts, whole, r, c) => (whole[r] ? (100 * counts[r][c]) / whole[r] : 0);
    const out = [];
    view.counts.forEach((row, r) =>
      row.forEach((count, c) => {
        const at = share(view.counts, mine, r, c);
        const value = view.less ? at - share(view.less, theirs, r, c) : ctx.state.mode === "counts" ? count : at;
        if (value !== 0 || view.classes.length <= 20) out.push([c, r, value]);
      }));
    return out;
  }
  const written = (view, ctx, value) => (view.less ? `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}` : ctx.state.mode === "counts" ? String(value) : value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(1));

  async function open(view, ctx, truth, said) {
    const box = document.getElementById("cell");
    const from = `${box.dataset.cell}${view.path || ""}`;
    const [spread, wrong] = await Promise.all([Tunesmith.samples.fetched(`${from}predictions`), Tunesmith.samples.fetched(`${from}mistakes`)]);
    const mine = new Map();
    for (const s of [...wrong.samples, ...spread.samples]) if (s.truth === view.classes[truth] && s.prediction === view.classes[said]) mine.set(s.index, s);
    const count = view.counts[truth][said];
    box.hidden = false;
    box.querySelector("h2").textContent = `True class ${view.classes[truth]}, taken for ${view.classes[said]}`;
    box.querySelector("[data-said]").textContent = `${count} sample${count === 1 ? "" : "s"} of the split; ${mine.size || "none"} of them kept to be looked at.`;
    Tunesmith.samples.show(box.querySelector("[data-samples]"), [...mine.values()]);
    box.scrollIntoView({ block: "nearest" });
    box.focus({ preventScroll: true });
  }

  Tunesmith.chart("confusion", {
    isEmpty: (view) => !view.classes.length,
    height: (view, ctx) => (ctx.narrow ? 24 : Math.min(16 + view.classes.length * 0.9, 44)),
    // Of one trial: row shares, counts, or the difference to a trial that is named.
    modes(view, ctx) {
      choices(place(ctx, "mode"), "Cells show", Object.entries(MODES), view.less ? "" : ctx.state.mode, (mode) => {
        ctx.state.mode = mode;
        if (view.less) ctx.ask("against", null);
        this.controls(view, ctx);
        ctx.paint();
      });
      const other = place(ctx, "against", "label");
      if (!other.firstChild) {
        const input = document.createElement("input");
        input.type = "number";
        input.min = "0";
        input.className = "few";
        input.placeholder = view.best === null ? "" : `#${view.best}`;
        input.addEventListener("change", () => ctx.ask("against", input.value));
        other.append("minus trial ", input);
      }
    },
    controls(view, ctx) {
      ctx.state.mode ??= "share";
      ctx.state.view = view;
      if (view.pairs) choices(place(ctx, "pair"), "Difference", view.pairs, view.pair, (pair) => ctx.ask("pair", pair));
      else this.modes(view, ctx);
      const cell = place(ctx, "cell", "form");
      if (!cell.firstChild) {
        const pick = (label) => {
          const select = document.createElement("select");
          select.setAttribute("aria-label", label);
          select.append(...view.classes.map((c, i) => new Option(c, String(i))));
          return select;
        };
        const [truth, said] = [pick("True class"), pick("Taken for")];
        const button = document.createElement("button");
        button.textContent = "Show samples";
        cell.append("true ", truth, " taken for ", said, " ", button);
        cell.addEventListener("submit", (event) => {
          event.preventDefault();
          open(ctx.state.view, ctx, Number(truth.value), Number(said.value));
        });
      }
    },
    option(view, ctx) {
      const data = cells(view, ctx);
      const size = view.classes.length;
      const width = ctx.root.clientWidth / size;
      const most = Math.max(...data.map((d) => Math.abs(d[2])), view.less ? 1 : 0.001);
      const isDense = width < (ctx.state.mode === "counts" ? 30 : 34) || size > 20;
      const zoom = size > 20 ? [{ type: "inside", xAxisIndex: 0, filterMode: "none" }, { type: "inside", yAxisIndex: 0, filterMode: "none" }] : [];
      const names = (more) => ctx.axis({ type: "category", data: view.classes, splitArea: { show: false }, splitLine: { show: false }, nameLocation: "middle", ...more });
      const plain = isDark() ? [css("--sunk"), ...[0.35, 0.55, 0.75, 0.95].map(viridis)] : [css("--sunk"), ...[0.85, 0.6, 0.4, 0.15].map(viridis)];
      const dark = (value) => (view.less ? Math.abs(value) / most > 0.6 : value / most > (isDark() ? 0.75 : 0.45));
      return {
        ...ctx.base(`Confusion matrix of ${size} classes; the table below has what was mistaken most.`),
        grid: { left: 34, right: 12, top: 8, bottom: 40, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
        tooltip: {
          ...ctx.base("").tooltip, trigger: "item",
          formatter: ({ data: cell }) => {
            const [c, r] = cell.value || cell;
            const whole = view.counts[r].reduce((a, b) => a + b, 0);
            const count = view.counts[r][c];
            return `true ${view.classes[r]}, taken for ${view.classes[c]}\n${count} of ${whole} (${whole ? ((100 * count) / whole).toFixed(1) : 0} %)`;
          },
        },
        xAxis: names({ name: "taken for", nameGap: 26 }),
        yAxis: names({ name: "true class", inverse: true, nameGap: size > 20 ? 34 : 30 }),
        dataZoom: zoom,
        visualMap: {
          show: false, type: "continuous", min: view.less ? -most : 0, max: most, dimension: 2,
          inRange: { color: view.less ? [css("--kind-6"), css("--card"), css("--kind-5")] : plain },
        },
        series: [{
          type: "heatmap", data: data.map((d) => ({ value: d, label: { color: dark(d[2]) ? css("--on-accent") : css("--text") } })).map((d) => (isDense ? d.value : d)),
          label: { show: !isDense, fontSize: 11, formatter: ({ data: d }) => written(view, ctx, (d.value || d)[2]) },
          itemStyle: { borderColor: css("--card"), borderWidth: size > 40 ? 0 : 1 }, emphasis: { itemStyle: { borderColor: css("--text"), borderWidth: 1.5 } },
        }],
      };
    },
    // What was mistaken most, first: the matrix itself has too many cells to read.
    rows(view) {
      const whole = sums(view.counts);
      const found = view.counts.flatMap((row, r) => row.map((count, c) => ({ r, c, count })));
      found.sort((a, b) => (a.r === a.c) - (b.r === b.c) || b.count - a.count);
      return {
        head: ["true class", "taken for", "samples", "row %"],
        rows: found.filter((f) => f.count).map(({ r, c, count }) => [view.classes[r], view.classes[c], String(count), whole[r] ? (100 * count) / whole[r] : 0]),
      };
    },
    said(view) {
      const right = view.counts.reduce((sum, row, i) => sum + row[i], 0);
      const zoom = view.classes.length > 20 ? " Turn the wheel over it to zoom." : "";
      const less = view.less ? ` Shown: row %${view.of ? ` of ${view.of}` : ""} minus that of ${view.minus ?? `#${view.against}`}.` : "";
      return `${view.of ? `${view.of}: ` : ""}${right} of ${view.samples} samples right (${((100 * right) / Math.max(view.samples, 1)).toFixed(1)} %).${less} Click a cell for its samples.${zoom}`;
    },
    click({ data }, view, ctx) {
      const [said, truth] = data.value || data;
      open(view, ctx, truth, said);
    },
  });
})();
