// What a value costs: each trial's objective against its slot time. charts/pareto.py says what it gets.
"use strict";
(() => {
  const { number, tick, duration, css, kind } = Tunesmith;

  // A little beyond the ends, so that no mark lies on the frame.
  const room = ({ min, max }, way, isLog) => {
    const end = way > 0 ? max : min;
    return isLog ? end * (max / min) ** (0.02 * way) : Math.max(end + 0.02 * way * (max - min || 1), 0);
  };

  Tunesmith.chart("pareto", {
    isEmpty: (view) => !view.number.length,
    option(view, ctx) {
      const [low, high] = view.range;
      const pad = (high - low) * 0.04;
      const inside = (v) => Math.min(Math.max(v, low - pad), high + pad);
      const isLog = view.seconds[0] > 0 && view.seconds[view.seconds.length - 1] > 20 * view.seconds[0];
      const by_stage = view.stages.map((name, stage) => ({
        name, type: "scatter", symbolSize: view.number.length > 400 ? 4 : 7, itemStyle: { color: kind(stage), opacity: 0.7 },
        data: view.number.flatMap((n, i) => (view.stage[i] === stage ? [{ value: [view.seconds[i], inside(view.value[i]), n, view.value[i]] }] : [])),
      }));
      return {
        ...ctx.base(`${view.metric} of ${view.total} trials by slot time; the table below has those that no other beats in both.`),
        legend: { type: "scroll", top: 0, right: 0, left: 110, itemWidth: 10, itemHeight: 10, textStyle: { color: css("--soft") }, data: [...by_stage.filter((s) => s.data.length).map((s) => s.name), "not beaten in both"] },
        tooltip: { ...ctx.base("").tooltip, trigger: "item", formatter: ({ data, seriesName }) => `#${data.value[2]}  ${seriesName}\n${view.metric} ${number(data.value[3])}\n${duration(data.value[0])}` },
        xAxis: ctx.axis({ type: isLog ? "log" : "value", scale: true, name: "slot time", nameLocation: "middle", nameGap: 26, min: (ends) => room(ends, -1, isLog), max: (ends) => room(ends, 1, isLog), splitLine: { show: false }, axisLabel: { formatter: duration, showMinLabel: false, showMaxLabel: false } }),
        yAxis: ctx.axis({
          type: "value", min: low - pad, max: high + pad, name: `${view.metric} ${view.direction === "minimize" ? "↓" : "↑"}`,
          nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] }, axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false },
        }),
        series: [
          ...by_stage,
          {
            name: "not beaten in both", type: "line", step: "end", symbol: "circle", symbolSize: 9, z: 5, lineStyle: { color: css("--text"), width: 1.5 }, itemStyle: { color: "transparent", borderColor: css("--text"), borderWidth: 1.5 },
            data: view.front.number.map((n, i) => ({ value: [view.front.seconds[i], inside(view.front.value[i]), n, view.front.value[i]] })),
          },
        ],
      };
    },
    trial: ({ data }) => (data && data.value ? data.value[2] : undefined),
    said: (view) => `${view.front.number.length} of ${view.total} trials are not beaten in both: each better one took longer. One that goes on from another's snapshot took that one's time as well.`,
    rows: (view) => ({
      head: ["trial", "slot time", view.metric],
      rows: view.front.number.map((n, i) => [`#${n}`, duration(view.front.seconds[i]), view.front.value[i]]),
    }),
  });
})();
