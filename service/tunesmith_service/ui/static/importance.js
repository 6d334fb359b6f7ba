// How much each hyperparameter matters. charts/importance.py says what it gets.
"use strict";
(() => {
  const { css, choices, place } = Tunesmith;
  const EVALUATORS = [["ped_anova", "PED-ANOVA"], ["fanova", "fANOVA"]];
  const percent = (share) => `${(100 * share).toPrecision(3)} %`;

  Tunesmith.chart("importance", {
    isEmpty: (view) => !view.names.length,
    height: (view) => Math.max(6, 2.2 + 1.6 * view.names.length),
    controls: (view, ctx) => choices(place(ctx, "evaluator"), "Method", EVALUATORS, view.by, (by) => ctx.ask("evaluator", by)),
    option: (view, ctx) => ({
      ...ctx.base("How much each hyperparameter matters; the table below has the shares."),
      grid: { left: 8, right: 64, top: 4, bottom: 4, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      tooltip: { ...ctx.base("").tooltip, trigger: "item", formatter: ({ name, value }) => `${name}\n${percent(value)}` },
      xAxis: ctx.axis({ type: "value", min: 0, splitLine: { show: false }, axisLabel: { show: false } }),
      yAxis: ctx.axis({ type: "category", inverse: true, data: view.names, axisLabel: { hideOverlap: false, width: 130, overflow: "truncate" } }),
      series: [{
        type: "bar", data: view.shares, barMaxWidth: 14, itemStyle: { color: css("--accent"), opacity: view.few ? 0.5 : 1, borderRadius: 2 },
        label: { show: true, position: "right", color: css("--text"), formatter: ({ value }) => percent(value) },
      }],
    }),
    rows: (view) => ({ head: ["hyperparameter", "share"], rows: view.names.map((name, i) => [name, percent(view.shares[i])]) }),
    said(view) {
      const of = view.n < view.of ? `${view.n} of ${view.of}` : `${view.n}`;
      const few = view.few ? " Too few to rely on: 30 or more tell." : "";
      const left = view.left_out.length ? ` Not judged, since not every trial varies in it: ${view.left_out.join(", ")}.` : "";
      return `${view.evaluator} over ${of} complete trial${view.n === 1 ? "" : "s"}.${few}${left}`;
    },
  });
})();
