// What trials reported while they trained. charts/curves.py says what it gets.
"use strict";
(() => {
  const { query, number, tick, css, viridis, isDark, choices, curvesTip, place, trialHref, keys, band } = Tunesmith;
  const TOPS = [[5, "best 5"], [10, "best 10"], [25, "best 25"], [0, "all"]];
  // Those that were selected in Explore, while the address has any.
  const picked = () => query.get("pick").split(",").filter(Boolean).length;

  // The best curve stands out most: darkest on a light page, brightest on a dark one.
  function colour(curve, count) {
    if (curve.state === "running") return css("--accent");
    if (curve.rank === null) return css("--soft");
    const t = count > 1 ? curve.rank / (count - 1) : 0;
    return viridis(isDark() ? 0.95 - 0.6 * t : 0.05 + 0.75 * t);
  }
  const count = (view) => view.curves.filter((c) => c.rank !== null && c.split !== "train").length;
  const word = (curve) => (curve.pruned_at !== null ? `pruned at ${tick(curve.pruned_at)}` : curve.state === "pruned" ? "diverged" : curve.state);
  const own = (view) => view.curves.filter((c) => c.split !== "train" || view.metric.startsWith("train/"));

  function line(curve, view, ctx) {
    const isTrain = curve.split === "train" && !view.metric.startsWith("train/");
    const faded = curve.state === "pruned";
    const away = ctx.state.lit !== undefined && ctx.state.lit !== null && ctx.state.lit !== curve.number;
    const c = colour(curve, count(view));
    const opacity = away ? 0.12 : isTrain ? 0.55 : faded ? 0.45 : 1;
    const last = curve.at.length - 1;
    const cut = curve.pruned_at !== null && last >= 0 ? [{ coord: [curve.at[last], curve.value[last]], symbol: "rect", symbolSize: [2, 10], itemStyle: { color: css("--warn"), borderColor: css("--warn"), borderWidth: 1, opacity: away ? 0.2 : 0.9 } }] : [];
    const lost = isTrain ? [] : curve.lost.map((at) => ({ coord: [at, view.range ? view.range[1] : 0] }));
    return {
      type: "line",
      name: `#${curve.number}${isTrain ? " train" : ""}`,
      data: curve.at.map((at, i) => [at, curve.value[i]]),
      symbol: curve.at.length < 2 ? "circle" : "none",
      symbolSize: 5,
      z: curve.rank === 0 ? 4 : faded ? 2 : 3,
      triggerLineEvent: true,
      lineStyle: { color: c, opacity, type: isTrain ? "dotted" : curve.state === "running" ? "dashed" : "solid", width: isTrain ? 1 : curve.rank === 0 || ctx.state.lit === curve.number ? 2.5 : 1.5 },
      itemStyle: { color: c, opacity },
      emphasis: { disabled: true },
      markPoint: {
        symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 8, label: { show: false }, silent: true,
        itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 2, opacity: away ? 0.2 : 1 },
        data: [...lost, ...cut],
      },
    };
  }

  const named = (view) => own(view).map((curve) => ({
    colour: colour(curve, count(view)),
    dashed: curve.state === "running",
    faded: curve.state === "pruned",
    href: trialHref(curve.number),
    name: `#${curve.number}`,
    number: curve.number,
    about: curve.state === "complete" ? curve.stage : `${curve.stage}, ${word(curve)}`,
    value: number(curve.value.length ? curve.value[curve.value.length - 1] : null),
  }));

  Tunesmith.chart("curves", {
    isEmpty: (view) => !view.curves.length,
    controls(view, ctx) {
      choices(place(ctx, "metric"), "Metric", view.metrics.map((m) => [m, m]), view.metric, (m) => ctx.ask("metric", m));
      const tops = picked() ? [...TOPS, [null, `selected (${picked()})`]] : TOPS;
      choices(place(ctx, "top"), "Which trials", tops, view.top, (top) => ctx.ask("top", top === null ? null : String(top)));
      choices(place(ctx, "train"), "Split", view.metric.startsWith("val/") ? [[true, "training too"]] : [], view.train, () => ctx.ask("train", String(!view.train)));
      choices(place(ctx, "scale"), "Scale", [["log", "log scale"]], ctx.state.log ? "log" : "", () => {
        ctx.state.log = !ctx.state.log;
        this.controls(view, ctx);
        ctx.paint();
      });
      keys(ctx, "Curves shown, with the newest value of each", named(view));
    },
    option(view, ctx) {
      const log = Boolean(ctx.state.log && view.range && view.range[0] > 0);
      return {
        ...ctx.base(`${view.metric} of ${view.shown} trials by epoch; the list below has the newest values, the table all.`),
        tooltip: curvesTip(ctx),
        xAxis: ctx.axis({ type: "value", name: "epoch", nameLocation: "middle", nameGap: 24, minInterval: 1, min: "dataMin", max: "dataMax", splitLine: { show: false } }),
        yAxis: ctx.axis({
          type: log ? "log" : "value", scale: true, name: view.metric, nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] },
          min: view.range ? view.range[0] : null, max: view.range ? view.range[1] : null,
          axisLabel: { formatter: tick, showMinLabel: log, showMaxLabel: log },
        }),
        series: [...view.curves.map((curve) => line(curve, view, ctx)), ...(view.band ? band(view.band, { colour: css("--soft") }) : [])],
      };
    },
    trial(params) {
      const found = /^#(\d+)/.exec(params.seriesName || "");
      return found ? Number(found[1]) : undefined;
    },
    hover(lit, view, ctx) {
      const known = view.curves.some((c) => c.number === lit) ? lit : null;
      if (known === (ctx.state.lit ?? null)) return;
      ctx.state.lit = known;
      ctx.paint();
    },
    said(view) {
      const train = view.train && view.curves.some((c) => c.split === "train") && view.metric.startsWith("val/");
      return `${view.said}${train ? " Dotted lines are training." : ""}`;
    },
    rows: (view) => ({
      head: ["trial", "split", "epoch", "value", "state"],
      rows: view.curves.flatMap((c) => c.at.map((at, i) => [`#${c.number}`, c.split, at, c.value[i], word(c)])),
    }),
  });
})();
