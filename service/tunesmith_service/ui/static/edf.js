// Which share of the trials came out at least so good. charts/edf.py says what it gets.
"use strict";
(() => {
  const { number, tick, css, kind } = Tunesmith;
  const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;

  Tunesmith.chart("edf", {
    isEmpty: (view) => !view.lines.length,
    option(view, ctx) {
      const sign = view.direction === "minimize" ? "≤" : "≥";
      return {
        ...ctx.base(`Share of trials with ${view.metric} ${sign} a value, of ${view.lines.length} lines; the table below has the figures.`),
        legend: { type: "scroll", top: 0, right: 0, left: 160, itemWidth: 16, itemHeight: 8, textStyle: { color: css("--soft") }, data: view.lines.map((l) => l.name) },
        tooltip: {
          ...ctx.base("").tooltip, trigger: "item",
          formatter: ({ value, seriesName }) => `${seriesName}\n${percent(value[1])} have ${view.metric} ${sign} ${number(value[0])}`,
        },
        xAxis: ctx.axis({ type: "value", scale: true, name: `${view.metric} ${view.direction === "minimize" ? "↓" : "↑"}`, nameLocation: "middle", nameGap: 26, min: view.range[0], max: view.range[1], splitLine: { show: false }, axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false } }),
        yAxis: ctx.axis({ type: "value", min: 0, max: 1, name: "share of trials", nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] }, axisLabel: { formatter: percent } }),
        series: view.lines.map((l) => ({
          type: "line", step: "end", name: l.name, data: [[l.at[0], 0], ...l.at.map((at, i) => [at, l.share[i]])], symbol: "circle", symbolSize: 5, showSymbol: l.at.length < 80, emphasis: { disabled: true },
          lineStyle: { color: kind(l.kind), width: 2, type: l.dashed ? "dashed" : "solid" }, itemStyle: { color: kind(l.kind) },
        })),
      };
    },
    said(view) {
      const lost = view.lines.filter((l) => l.n < l.ended).map((l) => `${l.name} (${l.ended - l.n} of ${l.ended})`);
      return lost.length ? `A line ends below 100 % by what was pruned or diverged: ${lost.join(", ")}.` : "";
    },
    rows: (view) => ({
      head: ["of", view.metric, "share of trials"],
      rows: view.lines.flatMap((l) => l.at.map((at, i) => [l.name, at, percent(l.share[i])])),
    }),
  });
})();
