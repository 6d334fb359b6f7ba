// Which slot ran what, and when. charts/timeline.py says what it gets.
"use strict";
(() => {
  const { css, state, duration } = Tunesmith;
  // Each state has a shape too: a full bar, a low one, one with a cross, one with a dashed frame.
  const DASHED = new Set(["lost", "handed back", "cancelled"]);
  const colour = (word) => (word === "lost" ? css("--warn") : word === "handed back" ? css("--soft") : state(word));
  const clock = (s) => new Date(s * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  const ends = (view, i) => view.end[i] ?? view.to;

  function bar(view, params, api) {
    const i = params.dataIndex;
    const [left, middle] = api.coord([view.start[i] * 1000, view.lane[i]]);
    const [right] = api.coord([ends(view, i) * 1000, view.lane[i]]);
    const full = Math.min(api.size([0, 1])[1] * 0.62, 22);
    const height = view.state[i] === "pruned" ? full / 2 : full;
    const space = params.coordSys;
    const x = Math.max(left, space.x);
    const width = Math.max(Math.min(right, space.x + space.width) - x, 1.5);
    const shape = { x, y: middle + full / 2 - height, width, height };
    const fill = colour(view.state[i]);
    const children = [];
    if (DASHED.has(view.state[i])) {
      children.push({ type: "rect", shape, style: { fill: css("--card"), stroke: fill, lineWidth: 1.5, lineDash: [4, 3] } });
    } else {
      const line = width > 4 ? { stroke: css("--card"), lineWidth: 1 } : {};
      children.push({ type: "rect", shape, style: { fill, opacity: view.state[i] === "running" ? 0.55 : 1, ...line } });
    }
    if (view.state[i] === "failed" && width > 6) {
      const d = Math.min(width, height) / 3;
      const cx = x + width / 2;
      const cy = shape.y + height / 2;
      for (const sign of [1, -1]) children.push({ type: "line", shape: { x1: cx - d, y1: cy - sign * d, x2: cx + d, y2: cy + sign * d }, style: { stroke: css("--card"), lineWidth: 1.5 } });
    }
    return { type: "group", children };
  }

  Tunesmith.chart("timeline", {
    isEmpty: (view) => !view.lanes.length,
    height: (view) => 3.5 + 2 * view.lanes.length,
    option: (view, ctx) => ({
      ...ctx.base(`Which of ${view.lanes.length} slots ran what, and when; the table below has the times.`),
      grid: { left: 8, right: 18, top: 8, bottom: 24, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      tooltip: {
        ...ctx.base("").tooltip,
        trigger: "item",
        formatter: ({ dataIndex: i }) => `${view.name[i]} #${view.number[i]}, attempt ${view.attempt[i]}\n${view.state[i]}\n${clock(view.start[i])}, ${duration(ends(view, i) - view.start[i])}`,
      },
      xAxis: ctx.axis({ type: "time", min: view.from * 1000, max: Math.max(view.to, view.from + 1) * 1000, axisLabel: { formatter: (ms) => clock(ms / 1000) } }),
      yAxis: ctx.axis({ type: "category", inverse: true, data: view.lanes, axisLabel: { hideOverlap: false, width: ctx.narrow ? 90 : 180, overflow: "truncate" } }),
      series: [{
        type: "custom", renderItem: (params, api) => bar(view, params, api), encode: { x: [0, 1], y: 2 },
        data: view.lane.map((lane, i) => [view.start[i] * 1000, ends(view, i) * 1000, lane]),
      }],
    }),
    rows: (view) => ({
      head: ["slot", "trial", "attempt", "state", "from", "for"],
      rows: view.lane.map((lane, i) => [view.lanes[lane], `${view.name[i]} #${view.number[i]}`, String(view.attempt[i]), view.state[i], clock(view.start[i]), duration(ends(view, i) - view.start[i])]),
    }),
    said(view) {
      const idle = view.idle.flatMap((share, i) => (share === null ? [] : [`${view.lanes[i]} ${(100 * share).toPrecision(2)} %`]));
      const shown = idle.slice(0, 6).join(", ") + (idle.length > 6 ? `, and ${idle.length - 6} more` : "");
      return `${idle.length ? `Idle: ${shown}. ` : ""}Low bars were pruned, a cross failed, a dashed frame was lost, handed back or cancelled; pale ones run.`;
    },
    click({ dataIndex: i }, view, ctx) {
      const root = location.pathname.replace(/(.*\/ui)\/.*/, "$1");
      if (i !== undefined) ctx.go(`${root}/studies/${view.study[i]}/trials/${view.number[i]}`);
    },
  });
})();
