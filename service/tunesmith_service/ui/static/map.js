// Two hyperparameters against each other, a layer a stage. charts/map.py says what it gets.
"use strict";
(() => {
  const { number, css, isDark, viridis, choices, place } = Tunesmith;
  const CROSS = "path://M1 1 9 9M9 1 1 9";

  // Bright is better on a dark page, dark on a light one: the best stands out most.
  function scale(view) {
    const [low, high] = view.range;
    const better = view.direction === "minimize" ? (v) => (high - v) / (high - low || 1) : (v) => (v - low) / (high - low || 1);
    return (value) => {
      const t = Math.min(Math.max(better(value), 0), 1);
      return viridis(isDark() ? 0.15 + 0.85 * t : 0.95 - 0.9 * t);
    };
  }
  const bounds = (view, name) => {
    const ends = view.layers.flatMap((l) => (l.tiles ? l.box.flatMap((b) => (name === "x" ? b.slice(0, 2) : b.slice(2))) : l[name]));
    return [Math.min(0, ...ends), Math.max(1, ...ends)];
  };
  function picker(ctx, name, label, options, chosen, pick) {
    const box = place(ctx, name, "label");
    if (!box.firstChild) {
      box.append(`${label} `);
      box.append(document.createElement("select"));
      box.lastChild.addEventListener("change", (event) => pick(event.target.value));
    }
    const select = box.querySelector("select");
    select.replaceChildren(...options.map((o) => new Option(o, o, false, o === chosen)));
  }

  Tunesmith.chart("map", {
    isEmpty: (view) => !view.layers.length,
    controls(view, ctx) {
      ctx.state.off ??= new Set();
      picker(ctx, "across", "across", view.choices, view.x && view.x.name, (v) => ctx.ask("across", v));
      picker(ctx, "up", "up", view.choices, view.y && view.y.name, (v) => ctx.ask("up", v));
      const box = place(ctx, "layers");
      const held = box.contains(document.activeElement) ? document.activeElement.textContent : null;
      box.className = "choices";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Layers");
      box.replaceChildren(...view.layers.map((layer) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = layer.stage;
        button.setAttribute("aria-pressed", String(!ctx.state.off.has(layer.stage)));
        button.addEventListener("click", () => {
          if (!ctx.state.off.delete(layer.stage)) ctx.state.off.add(layer.stage);
          this.controls(view, ctx);
          ctx.paint();
        });
        return button;
      }));
      for (const button of box.children) if (button.textContent === held) button.focus();
    },
    option(view, ctx) {
      const colour = view.range ? scale(view) : () => css("--soft");
      const layers = view.layers.filter((l) => !ctx.state.off.has(l.stage));
      const tell = (layer, i) => [
        `#${layer.number[i]}  ${layer.stage}${layer.count[i] > 1 ? `, best of ${layer.count[i]}` : ""}`,
        `${view.metric} ${layer.value[i] === null ? "diverged" : number(layer.value[i])}`,
        `${view.x.name} ${layer.xs[i]}   ${view.y.name} ${layer.ys[i]}`,
      ].join("\n");
      const tiles = layers.filter((l) => l.tiles).map((layer) => ({
        name: layer.stage, type: "custom", clip: true,
        data: layer.number.map((n, i) => ({ value: [layer.x[i], layer.y[i], n], tell: tell(layer, i), i })),
        renderItem(params, api) {
          const i = params.dataIndex;
          const [left, right, bottom, top] = layer.box[i];
          const [a, b] = [api.coord([left, top]), api.coord([right, bottom])];
          const shape = { x: a[0] + 1, y: a[1] + 1, width: Math.max(b[0] - a[0] - 2, 2), height: Math.max(b[1] - a[1] - 2, 2), r: 2 };
          const isBest = layer.number[i] === view.best;
          if (layer.value[i] !== null) {
            return { type: "rect", shape, style: { fill: colour(layer.value[i]), stroke: isBest ? css("--text") : css("--card"), lineWidth: isBest ? 3 : 1 } };
          }
          const [x, y] = api.coord([layer.x[i], layer.y[i]]);
          const cross = { stroke: css("--bad"), lineWidth: 2, fill: "none" };
          return {
            type: "group",
            children: [
              { type: "rect", shape, style: { fill: css("--sunk"), stroke: css("--card"), lineWidth: 1 } },
              { type: "line", shape: { x1: x - 5, y1: y - 5, x2: x + 5, y2: y + 5 }, style: cross, silent: true },
              { type: "line", shape: { x1: x - 5, y1: y + 5, x2: x + 5, y2: y - 5 }, style: cross, silent: true },
            ],
          };
        },
      }));
      const marks = layers.filter((l) => !l.tiles).map((layer) => ({
        name: layer.stage, type: "scatter", z: 4, symbolSize: layer.number.length > 500 ? 5 : 9,
        data: layer.number.map((n, i) => {
          const lost = layer.value[i] === null;
          const isBest = n === view.best;
          return {
            value: [layer.x[i], layer.y[i], n], tell: tell(layer, i), symbol: lost ? CROSS : "circle", symbolSize: isBest ? 14 : undefined,
            itemStyle: lost
              ? { color: "transparent", borderColor: css("--bad"), borderWidth: 2 }
              : { color: colour(layer.value[i]), borderColor: isBest ? css("--text") : css("--card"), borderWidth: isBest ? 3 : 0.8 },
          };
        }),
      }));
      const along = (axis, name) => {
        const [min, max] = bounds(view, name);
        const at = axis.labels.map((l) => l.at);
        const text = new Map(axis.labels.map((l) => [l.at, l.text]));
        return ctx.axis({
          type: "value", min, max, name: axis.name, splitLine: { show: false },
          axisLabel: { customValues: at, formatter: (v) => text.get(at.find((a) => Math.abs(a - v) < 1e-5)) ?? "" },
        });
      };
      const soft = css("--soft");
      return {
        ...ctx.base(`${view.metric} over ${view.x.name} and ${view.y.name}; the table below has the figures.`),
        tooltip: { ...ctx.base("").tooltip, trigger: "item", formatter: ({ data }) => data.tell },
        xAxis: { ...along(view.x, "x"), nameLocation: "middle", nameGap: 26 },
        yAxis: { ...along(view.y, "y"), nameLocation: "end", nameTextStyle: { color: soft, align: "left", padding: [0, 0, 0, -4] } },
        series: [
          {
            type: "scatter", data: [], silent: true,
            markArea: { silent: true, itemStyle: { color: "transparent", borderColor: css("--line"), borderWidth: 1, borderType: "dashed" }, data: [[{ coord: [0, 0] }, { coord: [1, 1] }]] },
          },
          ...tiles, ...marks,
        ],
      };
    },
    said: (view) => (view.range
      ? `Colour is ${view.metric}, from ${number(view.range[view.direction === "minimize" ? 0 : 1])} (strongest) to ${number(view.range[view.direction === "minimize" ? 1 : 0])}; red crosses diverged; the frame of the best trial, #${view.best}, stands out. The dashed frame is the space.`
      : ""),
    rows: (view) => ({
      head: ["trial", "stage", view.x.name, view.y.name, view.metric, "trials here"],
      rows: view.layers.flatMap((l) => l.number.map((n, i) => [`#${n}`, l.stage, l.xs[i], l.ys[i], l.value[i] === null ? "diverged" : l.value[i], l.count[i]])),
    }),
    trial: ({ data }) => (data && data.value ? data.value[2] : undefined),
  });
})();
