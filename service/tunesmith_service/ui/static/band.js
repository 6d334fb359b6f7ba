// Series of a band, {at, low, median, high}: the middle half as one shape, and the median through it.
"use strict";
(() => {
  Tunesmith.band = (found, { colour, name = "median", type = "dashed" }) => {
    const shape = [...found.at.map((at, i) => [at, found.high[i]]), ...found.at.map((at, i) => [at, found.low[i]]).reverse()];
    return [
      {
        type: "custom", name: "", silent: true, clip: true, z: 1, data: [[found.at[0], found.median[0]]],
        renderItem: (_params, api) => ({ type: "polygon", shape: { points: shape.map((p) => api.coord(p)) }, style: { fill: colour, opacity: 0.18 } }),
      },
      {
        type: "line", name, data: found.at.map((at, i) => [at, found.median[i]]), symbol: found.at.length < 2 ? "circle" : "none", silent: true, emphasis: { disabled: true }, z: 1,
        lineStyle: { color: colour, width: 2, type }, itemStyle: { color: colour },
      },
    ];
  };
})();
