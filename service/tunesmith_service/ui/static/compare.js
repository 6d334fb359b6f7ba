// Curves of what is compared; each keeps its colour from the table. comparison/curves.py says what it gets.
"use strict";
(() => {
  const { tick, css, kind, choices, curvesTip, place, band } = Tunesmith;
  const TOPS = [[1, "best of each"], [3, "best 3"], [10, "best 10"], [0, "all"]];

  Tunesmith.chart("compared", {
    isEmpty: (view) => !view.shown,
    controls(view, ctx) {
      choices(place(ctx, "metric"), "Metric", view.metrics.map((m) => [m, m]), view.metric, (m) => ctx.ask("metric", m));
      if (view.top !== null) choices(place(ctx, "top"), "Which trials", TOPS, view.top, (top) => ctx.ask("top", String(top)));
      choices(place(ctx, "scale"), "Scale", [["log", "log scale"]], ctx.state.log ? "log" : "", () => {
        ctx.state.log = !ctx.state.log;
        this.controls(view, ctx);
        ctx.paint();
      });
    },
    option(view, ctx) {
      const log = Boolean(ctx.state.log && view.range && view.range[0] > 0);
      const type = (c) => (c.train ? "dotted" : c.dashed ? "dashed" : "solid");
      return {
        ...ctx.base(`${view.metric} of ${view.curves.length || view.bands.length} ${view.bands.length ? "bands" : "curves"} by epoch; the table below has the figures.`),
        legend: view.bands.length ? { type: "scroll", top: 0, right: 0, left: 110, itemWidth: 16, itemHeight: 8, textStyle: { color: css("--soft") }, data: view.bands.map((b) => b.name) } : undefined,
        tooltip: curvesTip(ctx),
        xAxis: ctx.axis({ type: "value", name: "epoch", nameLocation: "middle", nameGap: 26, minInterval: 1, min: "dataMin", max: "dataMax", splitLine: { show: false } }),
        yAxis: ctx.axis({
          type: log ? "log" : "value", min: view.range ? view.range[0] : null, max: view.range ? view.range[1] : null, name: view.metric, nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] },
          axisLabel: { formatter: tick, showMinLabel: log, showMaxLabel: log },
        }),
        series: [
          ...view.bands.flatMap((b) => band(b, { colour: kind(b.kind), name: b.name, type: type(b) })),
          ...view.curves.map((c) => ({
            type: "line", name: c.name, symbol: c.at.length < 2 ? "circle" : "none", data: c.at.map((at, i) => [at, c.value[i]]), emphasis: { disabled: true }, z: c.first ? 4 : 3,
            lineStyle: { color: kind(c.kind), width: c.train || !c.first ? 1.3 : 2.2, opacity: c.first ? 1 : 0.65, type: type(c) }, itemStyle: { color: kind(c.kind) },
          })),
        ],
      };
    },
    said: (view) => view.said,
    rows: (view) => (view.bands.length
      ? {
        head: ["of", "epoch", "lower quarter", "median", "upper quarter"],
        rows: view.bands.flatMap((b) => b.at.map((at, i) => [b.name, String(at), b.low[i], b.median[i], b.high[i]])),
      }
      : { head: ["curve", "epoch", view.metric], rows: view.curves.flatMap((c) => c.at.map((at, i) => [c.name, String(at), c.value[i]])) }),
  });
})();
