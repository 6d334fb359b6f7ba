// The tree of trials that go on from others: a row each, children below their parent. charts/lineage.py says
// what it gets. Long families are folded to their best; a click unfolds them.
"use strict";
(() => {
  const { number, css, state, choices, place, trialHref } = Tunesmith;
  const FEW = 8;
  const MOST_ROWS = 300;

  // Places of the trials that are shown, and rows that stand for folded ones: {place} or {fold, count, depth}.
  function visible(view, ctx) {
    const open = (ctx.state.open ??= new Set());
    const seen = new Map();
    const hidden = new Set();
    const out = [];
    const folds = new Map();
    view.number.forEach((n, i) => {
      const parent = view.parent[i];
      if (hidden.has(parent)) {
        hidden.add(i);
        return;
      }
      const before = seen.get(parent) || 0;
      seen.set(parent, before + 1);
      const isHere = n === view.here;
      if (parent >= 0 && before >= FEW && !open.has(parent) && !isHere) {
        hidden.add(i);
        const fold = folds.get(parent) || { fold: parent, count: 0, depth: view.depth[i], after: out.length };
        fold.count += 1;
        if (!folds.has(parent)) out.push(fold);
        folds.set(parent, fold);
        return;
      }
      out.push({ place: i, depth: view.depth[i] });
    });
    return out.slice(0, MOST_ROWS);
  }

  Tunesmith.chart("lineage", {
    isEmpty: (view) => !view.number.length,
    controls(view, ctx) {
      const parents = view.parent.filter((p) => p >= 0);
      const folded = [...new Set(parents)].filter((p) => parents.filter((q) => q === p).length > FEW);
      if (!folded.length) return;
      const isOpen = folded.every((p) => (ctx.state.open ??= new Set()).has(p));
      choices(place(ctx, "fold"), "Families", [["open", "unfold all"]], isOpen ? "open" : "", () => {
        ctx.state.open = new Set(isOpen ? [] : folded);
        this.controls(view, ctx);
        ctx.paint();
      });
    },
    height: (view, ctx) => Math.max(visible(view, ctx).length * 1.75 + 0.8, 3.5),
    option(view, ctx) {
      const rows = visible(view, ctx);
      const at = new Map(rows.map((r, y) => [r.place, y]));
      const deep = Math.max(...rows.map((r) => r.depth), 1);
      const edges = rows.flatMap((r, y) => {
        const parent = r.fold ?? view.parent[r.place];
        const from = at.get(parent);
        return from === undefined ? [] : [{ coords: [[r.depth - 1, from], [r.depth - 1, y], [r.depth, y]] }];
      });
      const indent = ctx.narrow ? 14 : Math.min(40, 320 / deep);
      const text = (i) => {
        const value = view.value[i] === null ? view.state[i] : number(view.value[i]);
        const from = view.from[i] === null || view.from[i] === undefined ? "" : `from ${view.parent[i] < 0 ? `#${view.from[i]} ` : ""}snapshot at ${view.step[i]}`;
        const changed = view.changed[i] || (from ? "same settings" : view.stage[i]);
        const more = ctx.narrow ? changed : [changed, from].filter(Boolean).join("  ·  ");
        return `{n|#${view.number[i]}}  {v|${value}}  {c|${more}}`;
      };
      const room = ctx.root.clientWidth - deep * indent - 80;
      return {
        ...ctx.base(`${view.shown} trials and the trials that they go on from; the table below has them all.`),
        grid: { left: 14, right: ctx.root.clientWidth - 34 - deep * indent - 20, top: 14, bottom: 14, containLabel: false, outerBoundsMode: "none" },
        tooltip: {
          ...ctx.base("").tooltip, trigger: "item",
          formatter: ({ data }) => {
            if (!data || data.row === undefined) return "";
            const i = data.row.place;
            if (i === undefined) return `${data.row.count} more; click to unfold`;
            return [`#${view.number[i]}  ${view.stage[i]}  ${view.state[i]}`, `${view.metric} ${number(view.value[i])}`, view.step[i] ? `from #${view.from[i]}, snapshot at ${view.step[i]}` : "", view.changed[i]].filter(Boolean).join("\n");
          },
        },
        xAxis: { type: "value", show: false, min: 0, max: deep },
        yAxis: { type: "value", show: false, inverse: true, min: 0, max: Math.max(rows.length - 1, 1) },
        series: [
          { type: "lines", coordinateSystem: "cartesian2d", polyline: true, silent: true, data: edges, lineStyle: { color: css("--bar"), width: 1.2, opacity: 1, curveness: 0 } },
          {
            type: "scatter", symbolSize: 11, clip: false,
            data: rows.map((r, y) => ({
              value: [r.depth, y],
              row: r,
              itemStyle: r.place === undefined ? { color: css("--card"), borderColor: css("--soft"), borderWidth: 1.5 } : { color: state(view.state[r.place]), borderColor: view.number[r.place] === view.here ? css("--text") : "transparent", borderWidth: 2 },
              label: {
                show: true, position: "right", distance: 8, width: room, overflow: "truncate", color: css("--text"),
                formatter: r.place === undefined ? `{c|… ${r.count} more}` : text(r.place),
                rich: { n: { color: css("--accent"), fontWeight: view.number[r.place] === view.here ? 700 : 400 }, v: { color: css("--text"), fontWeight: 550 }, c: { color: css("--soft") } },
              },
            })),
          },
        ],
      };
    },
    rows: (view) => ({
      head: ["trial", "stage", "state", view.metric, "goes on from", "snapshot at", "what changed"],
      rows: view.number.map((n, i) => [`#${n}`, view.stage[i], view.state[i], view.value[i], view.from[i] === null ? "" : `#${view.from[i]}`, view.step[i] === null ? "" : String(view.step[i]), view.changed[i]]),
    }),
    said(view, ctx) {
      const rows = visible(view, ctx).length;
      const part = view.total > view.shown ? `The best ${view.shown} of ${view.total} trials that go on from another. ` : "";
      return `${part}${rows >= MOST_ROWS ? `The first ${MOST_ROWS} rows. ` : ""}Click a trial to open it.`;
    },
    click({ data }, view, ctx) {
      if (!data || !data.row) return;
      if (data.row.place !== undefined) return ctx.go(trialHref(view.number[data.row.place]));
      ctx.state.open.add(data.row.fold);
      this.controls(view, ctx);
      ctx.paint();
    },
  });
})();
