// One line a trial through its hyperparameters to its objective. charts/parallel.py says what it gets.
// Brushing an axis writes a range into the filter, and a range in the filter is a brush.
"use strict";
(() => {
  const { tick, css, isDark, viridis, query, filter, place } = Tunesmith;
  const SHARE = 0.125; // of an axis with a zero, as `space` has it

  const metricWord = (view) => view.metric.replaceAll("/", "_");
  // Place on the axis → value; the inverse of `Float.position`.
  function valueAt(axis, at) {
    let p = Math.min(Math.max(at, 0), 1);
    if (axis.zero) {
      if (p < SHARE) return 0;
      p = (p - SHARE) / (1 - SHARE);
    }
    return axis.log ? axis.low * (axis.high / axis.low) ** p : axis.low + (axis.high - axis.low) * p;
  }
  function placeOf(axis, value) {
    const plain = axis.log ? Math.log(value / axis.low) / Math.log(axis.high / axis.low) : (value - axis.low) / (axis.high - axis.low || 1);
    if (!axis.zero) return plain;
    return value === 0 ? 0 : SHARE + (1 - SHARE) * plain;
  }
  const short = (value) => String(Number(value.toPrecision(4)));

  // What a brush from a to b on an axis says as a term.
  function term(axis, a, b) {
    if (axis.words) {
      const inside = axis.labels.filter((l) => l.at >= a - 1e-6 && l.at <= b + 1e-6).map((l) => filter.word(l.text));
      return inside.length ? `${filter.word(axis.name)}:${inside.join(",")}` : "";
    }
    const low = valueAt(axis, a);
    const high = valueAt(axis, b);
    return `${filter.word(axis.name)}:${axis.whole ? Math.ceil(low - 1e-6) : short(low)}..${axis.whole ? Math.floor(high + 1e-6) : short(high)}`;
  }
  // The brush that the filter's term on this axis means; null for none.
  function brushOf(axis, view) {
    const name = axis.objective ? [metricWord(view), view.metric, "value"] : [axis.name];
    const found = filter.range(query.get("filter"), name);
    if (!found) return null;
    if (axis.words) {
      const at = axis.labels.filter((l) => found.words.includes(l.text)).map((l) => l.at);
      return at.length ? [Math.min(...at) - 0.02, Math.max(...at) + 0.02] : null;
    }
    const [low, high] = found.ends;
    const ends = axis.objective ? view.range : [0, 1];
    const at = (v, end) => (v === null ? end : axis.objective ? v : placeOf(axis, v));
    return [Math.max(at(low, ends[0]), ends[0]), Math.min(at(high, ends[1]), ends[1])];
  }
  const axesOf = (view) => [...view.axes, { name: metricWord(view), objective: true, low: view.range[0], high: view.range[1] }];

  // Ranges as numbers: the brush without a mouse.
  function ranges(view, ctx) {
    const box = place(ctx, "ranges", "details");
    if (!box.firstChild) {
      box.className = "ranges";
      const summary = document.createElement("summary");
      summary.textContent = "ranges as numbers";
      const list = document.createElement("ul");
      box.append(summary, list);
    }
    if (box.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
    box.querySelector("ul").replaceChildren(...axesOf(view).filter((a) => !a.words).map((axis) => {
      const item = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = axis.objective ? view.metric : axis.name;
      const found = filter.range(query.get("filter"), axis.objective ? [metricWord(view), view.metric, "value"] : [axis.name]);
      const inputs = ["from", "to"].map((word, i) => {
        const input = document.createElement("input");
        input.type = "text";
        input.inputMode = "decimal";
        input.setAttribute("aria-label", `${axis.name} ${word}`);
        input.placeholder = word;
        input.value = found && found.ends && found.ends[i] !== null ? String(found.ends[i]) : "";
        return input;
      });
      const changed = () => {
        const [low, high] = inputs.map((i) => i.value.trim());
        query.set({ filter: filter.withTerm(query.get("filter"), axis.objective ? [metricWord(view), view.metric, "value"] : [axis.name], low || high ? `${filter.word(axis.name)}:${low}..${high}` : ""), after: "" });
      };
      for (const input of inputs) input.addEventListener("change", changed);
      item.append(name, ...inputs);
      return item;
    }));
  }

  Tunesmith.chart("parallel", {
    isEmpty: (view) => !view.lines.length || !view.axes.length,
    controls(view, ctx) {
      ranges(view, ctx);
    },
    height: (view, ctx) => (ctx.narrow ? 22 : 24),
    option(view, ctx) {
      const [low, high] = view.range;
      const good = view.direction === "minimize" ? (v) => (high - v) / (high - low || 1) : (v) => (v - low) / (high - low || 1);
      const colour = (v) => {
        const t = Math.min(Math.max(good(v), 0), 1);
        return viridis(isDark() ? 0.15 + 0.85 * t : 0.95 - 0.9 * t);
      };
      const soft = css("--soft");
      const label = { color: soft, textBorderColor: css("--card"), textBorderWidth: 4 }; // it stands on the lines
      const order = view.number.map((_, i) => i).sort((a, b) => view.on[a] - view.on[b] || good(view.value[a]) - good(view.value[b]));
      const many = view.number.length > 300;
      ctx.state.order = order;
      return {
        ...ctx.base(`${view.picked} of ${view.total} trials as lines over ${view.axes.length} hyperparameters; the table below has the figures.`),
        grid: undefined,
        tooltip: { ...ctx.base("").tooltip, show: false },
        parallel: { left: 40, right: 60, top: 42, bottom: 20, parallelAxisDefault: { areaSelectStyle: { width: 18, borderWidth: 1, borderColor: css("--accent"), color: css("--accent"), opacity: 0.25 } } },
        parallelAxis: axesOf(view).map((axis, dim) => {
          const text = new Map((axis.labels || []).map((l) => [l.at, l.text]));
          const at = [...text.keys()];
          return {
            id: `axis-${dim}`, dim, name: axis.objective ? `${view.metric} ${view.direction === "minimize" ? "↓" : "↑"}` : axis.name, type: "value",
            min: axis.objective ? low : 0, max: axis.objective ? high : 1, nameLocation: "end", nameGap: 14,
            nameTextStyle: { color: css("--text"), fontSize: 11.5, width: 110, overflow: "truncate" },
            axisLine: { lineStyle: { color: soft } }, axisTick: { show: false }, splitLine: { show: false },
            axisLabel: axis.objective
              ? { ...label, formatter: tick }
              : { ...label, customValues: at, formatter: (v) => (text.get(at.find((a) => Math.abs(a - v) < 1e-5)) ?? "").slice(0, 18) },
          };
        }),
        series: [{
          type: "parallel", smooth: false, inactiveOpacity: 0.04, activeOpacity: many ? 0.35 : 0.7, progressive: 500,
          data: order.map((i) => ({
            value: [...view.lines[i].map((v) => (v === null ? "-" : v)), Math.min(Math.max(view.value[i], low), high)],
            lineStyle: { color: view.on[i] ? colour(view.value[i]) : css("--bar"), width: view.on[i] ? 1.3 : 0.7, opacity: view.on[i] ? (many ? 0.35 : 0.75) : 0.25 },
          })),
        }],
      };
    },
    after(view, ctx) {
      if (!ctx.state.listens) {
        ctx.state.listens = true;
        ctx.chart.on("axisareaselected", (event) => {
          if (ctx.state.own || event.intervals === undefined) return;
          const dim = Number(String(event.parallelAxisId ?? "").replace(/\D/g, ""));
          clearTimeout(ctx.state.wait);
          ctx.state.wait = setTimeout(() => {
            const axis = axesOf(ctx.state.view)[dim];
            const names = axis.objective ? [metricWord(ctx.state.view), ctx.state.view.metric, "value"] : [axis.name];
            const [range] = event.intervals;
            const words = !range ? "" : axis.objective ? `${axis.name}:${short(range[0])}..${short(range[1])}` : term(axis, range[0], range[1]);
            query.set({ filter: filter.withTerm(query.get("filter"), names, words), after: "" });
          }, 250);
        });
      }
      ctx.state.view = view;
      ctx.state.own = true; // these are the filter's brushes, not a hand's
      axesOf(view).forEach((axis, dim) => {
        const brush = brushOf(axis, view);
        if (brush) ctx.chart.dispatchAction({ type: "axisAreaSelect", parallelAxisIndex: dim, intervals: [brush] });
      });
      ctx.state.own = false;
    },
    said: (view) => `${view.picked} of ${view.total} trials picked${view.total > view.shown ? `, ${view.shown} drawn: the best, and a share of the rest` : ""}. Drag along an axis to pick a range; click it to let go.`,
    rows: (view) => ({
      head: ["trial", ...view.axes.map((a) => a.name), view.metric],
      rows: view.number.map((n, i) => [`#${n}`, ...view.lines[i].map((at, k) => (at === null ? null : view.axes[k].words ? view.axes[k].words[Math.round(at * (view.axes[k].words.length - 1))] : valueAt(view.axes[k], at))), view.value[i]]),
    }),
  });
})();
