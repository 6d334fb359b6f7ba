// The objective against each hyperparameter by itself. charts/slices.py says what it gets.
"use strict";
(() => {
  const { number, tick, css } = Tunesmith;
  const ROW = 13; // rem
  const REM = 16;
  const [ABOVE, BELOW] = [28, 46]; // px of a row, for the metric's name and the hyperparameter's
  const across = (ctx) => (ctx.root.clientWidth < 560 ? 1 : ctx.root.clientWidth < 900 ? 2 : 3);

  Tunesmith.chart("slices", {
    isEmpty: (view) => !view.slices.some((s) => s.number.length || s.lost.number.length),
    height: (view, ctx) => ROW * Math.ceil(view.slices.length / across(ctx)),
    option(view, ctx) {
      const columns = across(ctx);
      const [low, high] = view.range || [0, 1];
      const pad = (high - low) * 0.05 || 1;
      const inside = (v) => Math.min(Math.max(v, low - pad), high + pad);
      const edge = view.direction === "minimize" ? high + pad : low - pad;
      const many = view.shown > 150;
      const box = (i) => ({
        left: `${(100 * (i % columns)) / columns + 1}%`, width: `${100 / columns - 3}%`,
        top: Math.floor(i / columns) * ROW * REM + ABOVE, height: ROW * REM - ABOVE - BELOW,
        outerBoundsMode: "same", outerBoundsContain: "axisLabel",
      });
      const soft = css("--soft");
      const axes = view.slices.map(({ axis }, i) => {
        const text = new Map(axis.labels.map((l) => [l.at, l.text]));
        const at = [...text.keys()];
        return ctx.axis({
          type: "value", gridIndex: i, min: axis.words ? -0.08 : Math.min(0, ...view.slices[i].at), max: axis.words ? 1.08 : Math.max(1, ...view.slices[i].at),
          name: axis.name, nameLocation: "middle", nameGap: 24, nameTextStyle: { color: css("--text") }, splitLine: { show: false },
          axisLabel: { customValues: at, formatter: (v) => (text.get(at.find((a) => Math.abs(a - v) < 1e-5)) ?? "").slice(0, 14) },
        });
      });
      const tell = (slice, n, value) => `#${n}\n${view.metric} ${value === null ? "diverged" : number(value)}`;
      return {
        ...ctx.base(`${view.metric} against each of ${view.slices.length} hyperparameters; the table below has the figures.`),
        grid: view.slices.map((_, i) => box(i)),
        tooltip: { ...ctx.base("").tooltip, trigger: "item", formatter: ({ data }) => (data && data.tell) || "" },
        xAxis: axes,
        yAxis: view.slices.map((_, i) => ctx.axis({
          type: "value", gridIndex: i, min: low - pad, max: high + pad, splitNumber: 3,
          name: i % columns ? "" : view.metric, nameTextStyle: { color: soft, align: "left", padding: [0, 0, 0, -4] },
          axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false },
        })),
        series: view.slices.flatMap((slice, i) => [
          {
            type: "scatter", xAxisIndex: i, yAxisIndex: i, symbolSize: many ? 4 : 6, itemStyle: { color: css("--accent"), opacity: many ? 0.4 : 0.7 },
            data: slice.number.map((n, k) => ({ value: [slice.at[k], inside(slice.value[k]), n], tell: tell(slice, n, slice.value[k]) })),
            markArea: slice.axis.words ? undefined : { silent: true, itemStyle: { color: css("--sunk"), opacity: 0.6 }, data: [[{ xAxis: 0 }, { xAxis: 1 }]] },
          },
          {
            type: "line", xAxisIndex: i, yAxisIndex: i, symbol: "none", z: 4, silent: true, lineStyle: { color: css("--text"), width: 1.2 },
            data: slice.best.at.map((at, k) => [at, inside(slice.best.value[k])]),
          },
          {
            type: "scatter", xAxisIndex: i, yAxisIndex: i, symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 7, z: 3,
            itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 1.6 },
            data: slice.lost.number.map((n, k) => ({ value: [slice.lost.at[k], edge, n], tell: tell(slice, n, null) })),
          },
        ]),
      };
    },
    said: (view) => `The line joins the best of each part of a range; red crosses diverged; the shaded part is the space.${view.total > view.shown ? ` ${view.shown} of ${view.total} trials drawn.` : ""}`,
    rows: (view) => ({
      head: ["hyperparameter", "trial", view.metric],
      rows: view.slices.flatMap((s) => s.number.map((n, k) => [s.axis.name, `#${n}`, s.value[k]])),
    }),
    trial: ({ data }) => (data && data.value && data.value.length > 2 ? data.value[2] : undefined),
  });
})();
