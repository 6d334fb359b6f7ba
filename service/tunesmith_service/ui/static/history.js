// The objective of every trial, and the best so far. charts/history.py says what it gets.
"use strict";
(() => {
  const { number, tick, duration, css, kind, choices, place } = Tunesmith;
  const AXES = { trial: "trial", time: "time", gpu_hours: "slot-hours" };
  const along = (view, at) => (view.x === "time" ? duration(at) : tick(at));

  // How much of the trials the axis makes room for: the best so many percent.
  function share(view, ctx) {
    const box = place(ctx, "best", "label");
    if (!box.firstChild) {
      const input = document.createElement("input");
      Object.assign(input, { type: "range", min: "5", max: "100", step: "5", className: "few" });
      input.addEventListener("input", () => { box.lastChild.textContent = ` best ${input.value} %`; });
      input.addEventListener("change", () => ctx.ask("best", input.value));
      box.append(input, document.createElement("span"));
    }
    box.firstChild.value = String(view.share);
    box.lastChild.textContent = view.share < 100 ? ` best ${view.share} %` : " all trials";
  }

  Tunesmith.chart("history", {
    isEmpty: (view) => !view.number.length && !view.infeasible.number.length,
    controls(view, ctx) {
      choices(place(ctx, "along"), "Laid out along", Object.entries(AXES), view.x, (x) => ctx.ask("x", x));
      share(view, ctx);
      ctx.state.log ??= false;
      const isLog = ctx.state.log && view.range && view.range[0] > 0;
      choices(place(ctx, "scale"), "Scale", [["log", "log scale"]], isLog ? "log" : "", () => {
        ctx.state.log = !ctx.state.log;
        this.controls(view, ctx);
        ctx.paint();
      });
    },
    option(view, ctx) {
      const isLog = Boolean(ctx.state.log && view.range && view.range[0] > 0);
      const [low, high] = view.range || [0, 1];
      const top = isLog ? high : high + (high - low) * 0.04;
      const bottom = isLog ? low : low - (high - low) * 0.04;
      const inside = (v) => Math.min(Math.max(v, bottom), top);
      const by_stage = view.stages.map((name, stage) => ({
        name,
        type: "scatter",
        symbolSize: view.number.length > 400 ? 4 : 7,
        itemStyle: { color: kind(stage), opacity: view.number.length > 400 ? 0.55 : 0.8 },
        emphasis: { itemStyle: { borderColor: css("--text"), borderWidth: 1.5 } },
        data: view.number.flatMap((n, i) => (view.stage[i] === stage ? [{ value: [view.at[i], inside(view.value[i]), n, view.value[i]] }] : [])),
      }));
      const last = view.at.length ? view.at[view.at.length - 1] : 0;
      const steps = view.best.at.map((at, i) => [at, inside(view.best.value[i]), view.best.number[i], view.best.value[i]]);
      if (steps.length) steps.push([last, steps[steps.length - 1][1], steps[steps.length - 1][2], steps[steps.length - 1][3]]);
      return {
        ...ctx.base(`${view.metric} of ${view.total} trials by ${AXES[view.x]}; the table below has the figures.`),
        legend: { type: "scroll", top: 0, right: 0, left: 110, itemWidth: 10, itemHeight: 10, textStyle: { color: css("--soft") }, data: by_stage.filter((s) => s.data.length).map((s) => s.name) },
        tooltip: {
          ...ctx.base("").tooltip,
          trigger: "item",
          formatter: ({ data, seriesName }) => {
            const [at, , n, value] = data.value || data;
            return `#${n}  ${seriesName}\n${view.metric} ${value === undefined ? "diverged" : number(value)}\n${AXES[view.x]} ${along(view, at)}`;
          },
        },
        xAxis: ctx.axis({
          type: "value", name: AXES[view.x], nameLocation: "middle", nameGap: 26, min: "dataMin", max: "dataMax", splitLine: { show: false },
          axisLabel: { formatter: (at) => along(view, at) },
        }),
        yAxis: ctx.axis({
          type: isLog ? "log" : "value", min: bottom, max: top, name: `${view.metric} ${view.direction === "minimize" ? "↓" : "↑"}`,
          nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] },
          axisLabel: { formatter: tick, showMinLabel: isLog, showMaxLabel: isLog },
        }),
        series: [
          ...by_stage,
          {
            name: "best so far", type: "line", step: "end", symbol: "none", data: steps, z: 5,
            lineStyle: { color: css("--text"), width: 1.5 }, itemStyle: { color: css("--text") },
          },
          {
            name: "diverged", type: "scatter", symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 8, z: 4,
            itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 2 },
            data: view.infeasible.number.map((n, i) => ({ value: [view.infeasible.at[i], view.direction === "minimize" ? top : bottom, n] })),
          },
        ],
      };
    },
    rows: (view) => ({
      head: ["trial", "stage", AXES[view.x], view.metric, "state"],
      rows: view.number.map((n, i) => [`#${n}`, view.stages[view.stage[i]], along(view, view.at[i]), view.value[i], view.state[i]]),
    }),
    said(view) {
      const best = view.share < 100 ? `The best ${view.share} % of the trials with a value. ` : "";
      return best + (view.total > view.shown ? `${view.shown} of ${view.total} trials drawn: of each step along the axis the lowest and the highest.` : "");
    },
    trial({ data }) {
      const value = data && (data.value || data);
      return value ? value[2] : undefined;
    },
    hover(lit, view, ctx) {
      ctx.chart.dispatchAction({ type: "downplay" });
      if (lit === null) return;
      const series = ctx.chart.getOption().series;
      series.forEach((s, seriesIndex) => {
        const dataIndex = s.type === "scatter" ? s.data.findIndex((d) => d.value[2] === lit) : -1;
        if (dataIndex >= 0) ctx.chart.dispatchAction({ type: "highlight", seriesIndex, dataIndex });
      });
    },
  });
})();
