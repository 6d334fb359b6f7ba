// Range tests: the loss over the rate, and what was read of it. charts/range_test.py says what it gets.
"use strict";
(() => {
  const { number, tick, css, kind, choices, place, trialHref, keys } = Tunesmith;
  const SHAPES = { steepest: "triangle", suggested: "circle", "turns up": "diamond" };
  const colour = (i) => kind(i);
  const dash = (i) => (i < 8 ? "solid" : "dashed");

  // A sweep as it was, faint; smoothed, whole from where the loss has begun to fall and dotted before.
  function lines(sweep, i, ctx) {
    const away = ctx.state.lit !== undefined && ctx.state.lit !== null && ctx.state.lit !== sweep.number;
    const begun = sweep.marks.begun ? sweep.marks.begun[0] : -Infinity;
    const smooth = sweep.smooth.map((y, k) => [sweep.rate[k], y]);
    const usual = { type: "line", name: sweep.name, symbol: "none", emphasis: { disabled: true }, itemStyle: { color: colour(i) }, number: sweep.number, triggerLineEvent: true };
    const style = (more) => ({ color: colour(i), type: dash(i), opacity: away ? 0.12 : 1, width: 2.2, ...more });
    return [
      { ...usual, data: sweep.rate.map((x, k) => [x, sweep.loss[k]]), lineStyle: style({ width: 1, opacity: away ? 0.08 : 0.3 }), z: 2, tooltip: { show: false } },
      { ...usual, data: smooth.filter(([x]) => x <= begun), lineStyle: style({ type: "dotted", width: 1.6 }), z: 3 },
      { ...usual, data: smooth.filter(([x]) => x >= begun), lineStyle: style({}), z: 4 },
    ];
  }

  function marks(view, ctx) {
    return Object.entries(SHAPES).map(([name, symbol]) => ({
      type: "scatter", name, symbol, symbolSize: name === "suggested" ? 11 : 10, z: 6, itemStyle: { color: css("--text") },
      data: view.sweeps.flatMap((s, i) => (s.marks[name] ? [{
        value: s.marks[name], name: s.name,
        itemStyle: { color: colour(i), borderColor: css("--card"), borderWidth: 1.5, opacity: (ctx.state.lit ?? s.number) === s.number ? 1 : 0.2 },
      }] : [])),
    }));
  }

  // What later stages take: the chosen rates, and the largest that is of use.
  function chosen(view, ctx) {
    const label = (text, position) => ({ formatter: text, position, color: css("--text"), backgroundColor: css("--card"), padding: [1, 3], fontSize: 11 });
    const line = (x, text, type) => ({ xAxis: x, name: text, lineStyle: { color: css("--text"), type, width: 1.2 }, label: label(text, "insideEndTop") });
    return {
      type: "line", data: [], silent: true,
      markLine: {
        precision: -1, // else rates are rounded to two decimals, and small ones leave the axis
        symbol: "none", silent: true, animation: false,
        data: view.chosen.flatMap((c) => [
          line(c.lr, ctx.narrow ? tick(c.lr) : ["chosen", tick(c.lr), c.name].filter(Boolean).join(" "), "solid"),
          ...(ctx.narrow ? [] : [line(c.max, ["largest usable", tick(c.max), c.name].filter(Boolean).join(" "), "dashed")]),
        ]),
      },
    };
  }
  const ends = (view) => view.sweeps.flatMap((s) => [...s.rate, ...s.lost]);

  Tunesmith.chart("range_test", {
    isEmpty: (view) => !view.sweeps.some((s) => s.rate.length || s.lost.length),
    controls(view, ctx) {
      if (view.stages.length > 1) choices(place(ctx, "stage"), "Range test", view.stages.map((s) => [s, s]), view.stage, (s) => ctx.ask("stage", s));
      keys(ctx, "Sweeps, with the rate that each suggests", view.sweeps.map((s, i) => ({
        colour: colour(i), dashed: i >= 8, href: trialHref(s.number), name: `#${s.number}`, number: s.number,
        about: s.silent ? `${s.name}: ${s.silent}` : s.name, value: s.marks.suggested ? number(s.marks.suggested[0]) : s.state === "complete" ? "none" : s.state,
      })));
    },
    option(view, ctx) {
      const rates = ends(view);
      const top = view.range ? view.range[1] : 1;
      return {
        ...ctx.base(`${view.metric} over the learning rate of ${view.shown} sweeps; the table below has the figures.`),
        legend: { type: "scroll", top: 0, right: 0, left: 90, itemWidth: 16, itemHeight: 10, textStyle: { color: css("--soft") }, data: Object.keys(SHAPES) },
        tooltip: {
          ...ctx.base("").tooltip, trigger: "item",
          formatter: (p) => (p.seriesType === "scatter" ? `${p.name}\n${p.seriesName} at ${number(p.value[0])}\nsmoothed ${number(p.value[1])}` : `${p.seriesName}`),
        },
        xAxis: ctx.axis({
          type: "log", name: "learning rate", nameLocation: "middle", nameGap: 26, min: Math.min(...rates), max: Math.max(...rates), splitLine: { show: false },
          axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false },
        }),
        yAxis: ctx.axis({
          type: "value", scale: true, name: view.metric, nameTextStyle: { color: css("--soft"), align: "left", padding: [0, 0, 0, -4] },
          min: view.range ? view.range[0] : null, max: view.range ? top : null, axisLabel: { formatter: tick, showMinLabel: false, showMaxLabel: false },
        }),
        series: [
          ...view.sweeps.flatMap((s, i) => lines(s, i, ctx)),
          ...marks(view, ctx),
          {
            type: "scatter", name: "not finite", symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 8, silent: true,
            itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 2 }, data: view.sweeps.flatMap((s) => s.lost.map((x) => [x, top])),
          },
          chosen(view, ctx),
        ],
      };
    },
    trial: ({ seriesIndex }, view) => view.sweeps[Math.floor(seriesIndex / 3)]?.number,
    hover(lit, view, ctx) {
      const known = view.sweeps.some((s) => s.number === lit) ? lit : null;
      if (known === (ctx.state.lit ?? null)) return;
      ctx.state.lit = known;
      ctx.paint();
    },
    said(view) {
      const rule = view.sweeps.some((s) => s.marks.suggested) ? `Rule: ${view.rule}; docs/discipline.md says why. Dotted: burn-in, which it leaves out.` : "";
      return [view.why, ...view.taken, rule].join(" ").trim();
    },
    // Readings first, then all losses.
    rows: (view) => ({
      head: ["sweep", "what", "rate", "loss", "smoothed"],
      rows: [
        ...view.sweeps.flatMap((s) => Object.entries(s.marks).map(([name, [x, y]]) => [`#${s.number} ${s.name}`, name, x, null, y])),
        ...view.sweeps.flatMap((s) => s.rate.map((x, k) => [`#${s.number} ${s.name}`, "", x, s.loss[k], s.smooth.length ? s.smooth[k] : null])),
      ],
    }),
  });
})();
