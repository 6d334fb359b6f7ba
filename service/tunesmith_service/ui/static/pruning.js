// What a pruner did to a stage, and whether that was wise. charts/pruning.py says what both charts get.
"use strict";
(() => {
  const { number, tick, css, choices, place } = Tunesmith;
  const points = (line) => line.at.map((at, i) => [at, line.value[i]]);

  function stages(view, ctx) {
    if (view.stages.length > 1) choices(place(ctx, "stage"), "Stage", view.stages.slice(0, 12).map((s) => [s, s]), view.stage, (s) => ctx.ask("stage", s));
  }
  function steps(ctx, name) {
    return ctx.axis({ type: "value", name, nameLocation: "middle", nameGap: 24, min: "dataMin", max: "dataMax", minInterval: 1, splitLine: { show: false } });
  }

  Tunesmith.chart("pruning", {
    isEmpty: (view) => !view.stage || !view.curves.length || !(view.pruner || view.pruned),
    controls: stages,
    option(view, ctx) {
      const curve = (c) => {
        const isPruned = c.state === "pruned";
        return {
          type: "line", name: isPruned ? "pruned" : "ran through", data: points(c), showSymbol: false, number: c.number, triggerLineEvent: true,
          lineStyle: { color: css(isPruned ? "--warn" : "--accent"), width: 1.2, opacity: isPruned ? 0.3 : 0.75 },
          itemStyle: { color: css(isPruned ? "--warn" : "--accent") },
          endLabel: { show: false }, markPoint: isPruned ? { silent: true, symbol: "circle", symbolSize: 4, data: [{ coord: points(c)[c.at.length - 1] }], label: { show: false }, itemStyle: { color: css("--warn"), opacity: 0.7 } } : undefined,
        };
      };
      return {
        ...ctx.base(`${view.metric} by step of pruned trials and of those that ran through.`),
        legend: { top: 0, right: 0, itemWidth: 16, itemHeight: 8, textStyle: { color: css("--soft") }, data: ["ran through", "pruned", ...view.thresholds.map((t) => t.name)] },
        tooltip: { ...ctx.base("").tooltip, trigger: "item", formatter: ({ seriesIndex, seriesName, value }) => (view.curves[seriesIndex] ? `#${view.curves[seriesIndex].number}  ${seriesName}` : `${seriesName}  ${value ? number(value[1]) : ""}`) },
        xAxis: steps(ctx, "epoch"),
        yAxis: ctx.axis({ type: "value", scale: true, min: view.range ? view.range[0] : null, max: view.range ? view.range[1] : null, name: view.metric, nameTextStyle: { color: css("--soft"), align: "left" }, axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false } }),
        series: [
          ...view.curves.map(curve),
          ...view.thresholds.map((t) => ({ type: "line", name: t.name, data: points(t), symbol: "diamond", showSymbol: t.at.length < 12, symbolSize: 7, z: 5, lineStyle: { color: css("--text"), width: 1.6, type: "dashed" }, itemStyle: { color: css("--text") } })),
        ],
      };
    },
    rows: (view) => ({
      head: ["trial", "state", "last epoch", view.metric],
      rows: view.curves.map((c) => [`#${c.number}`, c.state, String(c.at[c.at.length - 1]), c.value[c.value.length - 1]]),
    }),
    said(view) {
      const share = view.planned ? Math.round((100 * view.saved) / view.planned) : 0;
      const saved = view.pruned ? `${view.pruned} of ${view.pruned + view.complete} trials were pruned, which saved ${view.saved} of ${view.planned} epochs (${share} %).` : "Nothing was pruned so far.";
      return `${saved} ${view.said}`;
    },
    trial: ({ seriesIndex }, view) => view.curves[seriesIndex]?.number,
  });

  Tunesmith.chart("budget-correlation", {
    isEmpty: (view) => !view.stage || !view.rank.at.length,
    height: () => 15,
    controls: stages,
    option: (view, ctx) => ({
      ...ctx.base("Rank correlation of each step's values with the final ones."),
      tooltip: { ...ctx.base("").tooltip, trigger: "axis", formatter: ([{ dataIndex: i }]) => `epoch ${view.rank.at[i]}\nρ ${number(view.rank.rho[i])}\n${view.rank.n[i]} trials` },
      xAxis: steps(ctx, "epoch"),
      yAxis: ctx.axis({ type: "value", max: 1, min: Math.min(0, ...view.rank.rho), name: "ρ against the end", nameTextStyle: { color: css("--soft"), align: "left" }, axisLabel: { formatter: tick } }),
      series: [{
        type: "line", data: view.rank.at.map((at, i) => [at, view.rank.rho[i]]), symbolSize: 6, showSymbol: view.rank.at.length < 30,
        lineStyle: { color: css("--accent"), width: 2 }, itemStyle: { color: css("--accent") },
        markLine: {
          symbol: "none", silent: true, label: { color: css("--soft"), position: "insideEndTop" }, lineStyle: { color: css("--soft"), type: "dashed" },
          data: [{ yAxis: 0.7, label: { formatter: "agree from 0.7" } }, ...(view.judged_at === null ? [] : [{ xAxis: view.judged_at, label: { position: "insideStartBottom", formatter: view.pruned ? "first pruned" : "judged here" } }])],
        },
      }],
    }),
    rows: (view) => ({ head: ["epoch", "ρ", "trials"], rows: view.rank.at.map((at, i) => [String(at), view.rank.rho[i], String(view.rank.n[i])]) }),
    said: (view) => [view.finding.sentence, view.finding.next_step, view.finding.rule].filter(Boolean).join(" "),
  });
})();
