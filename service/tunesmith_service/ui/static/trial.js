// A trial's own charts over its steps: loss, gap, schedule, machine. charts/of_trial.py says what they get.
"use strict";
(() => {
  const { number, tick, css, kind, choices, place } = Tunesmith;
  const points = (line) => line.at.map((at, i) => [at, line.value[i]]);
  const colour = (name, i) => (name.startsWith("train/") ? css("--soft") : name.startsWith("val/") ? css("--accent") : kind(i));

  function along(view, ctx) {
    return ctx.axis({
      type: "value", name: view.unit, nameLocation: "middle", nameGap: 24, min: "dataMin", max: "dataMax", minInterval: 1, splitLine: { show: false },
    });
  }
  function curve(line, i, more = {}) {
    const c = colour(line.name, i);
    return {
      type: "line", name: line.name, data: points(line), showSymbol: line.at.length === 1, symbolSize: 6,
      lineStyle: { color: c, width: 2 }, itemStyle: { color: c }, emphasis: { disabled: true }, ...more,
    };
  }
  const legend = (names) => ({ type: "scroll", top: 0, right: 0, left: 90, itemWidth: 16, itemHeight: 8, textStyle: { color: css("--soft") }, data: names });
  function tooltip(view, ctx) {
    return {
      ...ctx.base("").tooltip, trigger: "axis", axisPointer: { lineStyle: { color: css("--soft"), type: "dashed" } },
      formatter: (seen) => [`${view.unit} ${tick(seen[0].axisValue)}`, ...seen.map((s) => `${s.seriesName}  ${number(s.value[1])}`)].join("\n"),
    };
  }
  // One row a step, one column a line: what all these charts have behind them.
  function rows(view, lines) {
    const steps = [...new Set(lines.flatMap((l) => l.at))].sort((a, b) => a - b);
    const maps = lines.map((l) => new Map(points(l)));
    return { head: [view.unit, ...lines.map((l) => l.name)], rows: steps.map((s) => [s, ...maps.map((m) => m.get(s))]) };
  }
  const named = (view) => [
    ...view.lines,
    ...(view.median.at.length ? [{ ...view.median, name: "stage's median" }] : []),
    ...view.thresholds,
  ];

  Tunesmith.chart("losses", {
    isEmpty: (view) => !view.lines.length,
    controls(view, ctx) {
      if (view.groups.length > 1) choices(place(ctx, "group"), "Metric", view.groups.slice(0, 6).map((g) => [g, g]), view.group, (g) => ctx.ask("group", g));
      ctx.state.log ??= false;
      choices(place(ctx, "scale"), "Scale", [["log", "log scale"]], ctx.state.log ? "log" : "", () => {
        ctx.state.log = !ctx.state.log;
        this.controls(view, ctx);
        ctx.paint();
      });
    },
    option(view, ctx) {
      const isLog = ctx.state.log && view.range && view.range[0] > 0;
      const extras = named(view).slice(view.lines.length);
      const series = [
        ...view.lines.map((line, i) => curve(line, i)),
        ...extras.map((line) => {
          const isMedian = line.name === "stage's median";
          const c = css(isMedian ? "--kind-2" : "--warn");
          return curve(line, 0, {
            lineStyle: { color: c, width: 1.5, type: isMedian ? "dotted" : "dashed" }, itemStyle: { color: c },
            symbol: isMedian ? "circle" : "diamond", showSymbol: !isMedian && line.at.length < 12,
          });
        }),
      ];
      if (view.end && series.length) {
        series[0].markLine = {
          symbol: "none", silent: true, data: [{ xAxis: view.end.at }], lineStyle: { color: css("--bad"), type: "solid", width: 1 },
          label: { formatter: view.end.word, color: css("--text"), position: "insideEndTop" },
        };
      }
      const lost = view.lines.flatMap((l) => l.lost.map((at) => [at, view.range ? view.range[1] : 1]));
      if (lost.length) series.push({ name: "not finite", type: "scatter", data: lost, symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 9, itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 2 } });
      return {
        ...ctx.base(`${view.group} by ${view.unit}; the table below has the figures.`),
        legend: legend(series.map((s) => s.name)),
        tooltip: tooltip(view, ctx),
        xAxis: along(view, ctx),
        yAxis: ctx.axis({
          type: isLog ? "log" : "value", scale: true, min: view.range ? view.range[0] : null, max: view.range ? view.range[1] : null,
          name: view.group, nameTextStyle: { color: css("--soft"), align: "left" }, axisLabel: { formatter: tick, showMinLabel: isLog, showMaxLabel: isLog },
        }),
        series,
      };
    },
    rows: (view) => rows(view, named(view)),
    said: (view) => [view.end ? `${view.end.word[0].toUpperCase()}${view.end.word.slice(1)} at ${view.unit} ${view.end.at}.` : "", view.median.at.length ? `Median of ${view.median.trials} trials of its stage.` : "", view.said].filter(Boolean).join(" "),
  });

  Tunesmith.chart("gap", {
    isEmpty: (view) => !view.lines.length || !view.lines[0].at.length,
    height: () => 14,
    option: (view, ctx) => ({
      ...ctx.base("Validation minus training by step; the table below has the figures."),
      tooltip: tooltip(view, ctx),
      xAxis: along(view, ctx),
      yAxis: ctx.axis({ type: "value", scale: true, min: view.range[0], max: view.range[1], name: view.lines[0].name, nameTextStyle: { color: css("--soft"), align: "left" }, axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false } }),
      series: view.lines.map((line) =>
        curve(line, 0, {
          lineStyle: { color: css("--kind-2"), width: 2 }, itemStyle: { color: css("--kind-2") }, areaStyle: { color: css("--kind-2"), opacity: 0.12, origin: 0 },
          markLine: { symbol: "none", silent: true, data: [{ yAxis: 0 }], label: { show: false }, lineStyle: { color: css("--soft"), type: "solid", width: 1 } },
        })),
    }),
    rows: (view) => rows(view, view.lines),
    said: (view) => {
      const { at, value } = view.lines[0];
      return `${number(value[value.length - 1])} at ${view.unit} ${at[at.length - 1]}. Above 0, it does worse on data that it was not trained on.`;
    },
  });

  Tunesmith.chart("schedule", {
    isEmpty: (view) => !view.lines.length,
    height: () => 14,
    option(view, ctx) {
      const isFlat = (line) => new Set(line.value).size < 2;
      const decay = view.lines.find((l) => l.name === "weight decay");
      const series = view.lines.map((line, i) => curve(line, i, { yAxisIndex: line === decay ? 1 : 0, step: "end" }));
      const scale = (line, position) => ctx.axis({ type: "value", position, scale: !line || !isFlat(line), axisLabel: { formatter: tick, showMinLabel: false }, splitLine: { show: position === "left", lineStyle: { color: css("--line"), width: 0.7 } } });
      return {
        ...ctx.base("Learning rate and weight decay by step; the table below has the figures."),
        legend: { ...legend(series.map((s) => s.name)), left: 0 },
        tooltip: tooltip(view, ctx),
        xAxis: along(view, ctx),
        yAxis: [scale(view.lines[0], "left"), scale(decay, "right")],
        series,
      };
    },
    rows: (view) => rows(view, view.lines),
  });

  Tunesmith.chart("machine", {
    isEmpty: (view) => !view.lines.length,
    height: () => 14,
    controls(view, ctx) {
      const names = view.lines.map((l) => l.name);
      if (!names.length) return;
      if (!names.includes(ctx.state.line)) ctx.state.line = names.find((n) => n === "train_seconds") || names[0];
      const box = place(ctx, "line");
      let select = box.querySelector("select");
      if (!select) {
        select = document.createElement("select");
        select.setAttribute("aria-label", "Which figure");
        select.addEventListener("change", () => {
          ctx.state.line = select.value;
          ctx.paint();
        });
        box.append(select);
      }
      if (select.options.length !== names.length) select.replaceChildren(...names.map((n) => new Option(n.replaceAll("_", " "), n)));
      select.value = ctx.state.line;
    },
    option(view, ctx) {
      const line = view.lines.find((l) => l.name === ctx.state.line) || view.lines[0];
      return {
        ...ctx.base(`${line.name} by step; the table below has the figures.`),
        tooltip: tooltip(view, ctx),
        xAxis: along(view, ctx),
        yAxis: ctx.axis({ type: "value", min: 0, axisLabel: { formatter: tick } }),
        series: [curve(line, 3)],
      };
    },
    rows: (view) => rows(view, view.lines),
  });

})();
