// What the chart and the table show, computed from what was measured: pure functions, no document.
"use strict";
const Logic = (() => {
  const AXES = [
    {key: "budget", title: "tokens kept (the budget)", of: (row) => row.keep, log: true},
    {key: "layers", title: "visual tokens a layer, on average", of: (row) => row.layers, log: true},
    {key: "gflops", title: "GFLOPs of the prefill", of: (row) => row.gflops, log: true},
    {key: "kv", title: "KiB of KV cache after the prefill", of: (row) => row.kv, log: true},
    {key: "ms", title: "ms to the first token", of: (row) => row.ms, log: true},
  ];
  const MEASURES = {accuracy: "accuracy", relative: "accuracy, of the unpruned model's", agreement: "answers as the unpruned model's",
    f1: "F1 of yes", yes_rate: "share of yes"};

  // axes that at least one pruned row has a number for
  const axes = (data) => AXES.filter((axis) => data.rows.some((row) => row.keep && axis.of(row) > 0));

  // {value, low, high, n} or null
  function number(row, part, metric) {
    const found = row.values[part] && row.values[part][metric];
    return found ? {value: found[0], low: found[1], high: found[2], n: found[3]} : null;
  }

  // measures that some row has for a part
  const measures = (data, part) => [...data.metrics.keys()].filter((m) => data.rows.some((row) => number(row, part, m)));

  // lines of the chart: [{name, level, points: [{x, value, low, high, n, row}]}], points from left to right
  function series(data, part, metric, axis) {
    const found = new Map();
    data.rows.forEach((row, index) => {
      const measured = number(row, part, metric), x = axis.of(row);
      if (measured === null) return;
      const level = row.keep === 0;
      if (!found.has(row.strategy)) found.set(row.strategy, {name: row.strategy, level, points: []});
      if (level || x > 0) found.get(row.strategy).points.push({x: x > 0 && axis.key !== "budget" || !level ? x : null, row: index, ...measured});
    });
    const lines = [...found.values()].filter((line) => line.points.length);
    for (const line of lines) line.points.sort((a, b) => a.x - b.x);
    const last = (line) => line.points[0].value;
    return lines.sort((a, b) => last(b) - last(a) || (a.name < b.name ? -1 : 1));
  }

  // points that nothing is as good as for less, from left to right
  function front(lines, isScale) {
    const points = lines.filter((line) => !line.level && !isScale(line.name)).flatMap((line) => line.points);
    points.sort((a, b) => a.x - b.x || b.value - a.value);
    const kept = [];
    for (const point of points) if (!kept.length || point.value > kept[kept.length - 1].value) kept.push(point);
    return kept;
  }

  // [low, high] of what is finite, with a margin
  function span(values, log, margin = 0.05) {
    const finite = values.filter((v) => Number.isFinite(v) && (!log || v > 0)).map((v) => log ? Math.log(v) : v);
    if (!finite.length) return log ? [1, 10] : [0, 1];
    let low = Math.min(...finite), high = Math.max(...finite);
    const room = (high - low || Math.abs(high) || 1) * margin;
    low -= room;
    high += room;
    return log ? [Math.exp(low), Math.exp(high)] : [low, high];
  }

  // number to place, between two ends
  function scale([low, high], [from, to], log) {
    const f = log ? Math.log : (v) => v;
    return (v) => from + (f(v) - f(low)) / (f(high) - f(low)) * (to - from);
  }

  function ticks([low, high], log, about = 6) {
    const out = [];
    if (log && high / low > 3) {
      const digits = [[1, 2, 3, 5], [1, 2, 5], [1, 3], [1]];
      for (const some of digits) {
        out.length = 0;
        for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
          for (const d of some) {
            const v = Number((d * 10 ** e).toPrecision(2));
            if (v >= low && v <= high) out.push(v);
          }
        }
        if (out.length <= about + 2) return out;
      }
      return out;
    }
    const raw = (high - low) / about, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((d) => d * size).find((s) => s >= raw);
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
    return out;
  }

  // budgets themselves are the ticks of the axis of budgets
  function placesOf(lines, axis, ends) {
    if (axis.key !== "budget") return ticks(ends, axis.log);
    return [...new Set(lines.filter((line) => !line.level).flatMap((line) => line.points.map((p) => p.x)))].sort((a, b) => a - b);
  }

  // the nearest of [{px, py, ...}] within reach, or null
  function nearest(points, px, py, reach) {
    let found = null, best = reach * reach;
    for (const point of points) {
      const distance = (point.px - px) ** 2 + (point.py - py) ** 2;
      if (distance <= best) { best = distance; found = point; }
    }
    return found;
  }

  // what a row of the table is sorted by; null where there is nothing
  function sortValue(data, row, key) {
    const metric = (name) => data.metrics.indexOf(name);
    if (key.startsWith("part:")) { const found = number(row, Number(key.slice(5)), metric("accuracy")); return found && found.value; }
    if (key === "relative" || key === "agreement") { const found = number(row, 0, metric(key)); return found && found.value; }
    if (key === "keep") return row.keep || Infinity;
    return row[key];
  }

  // indices of the rows that are shown, in order; what has no value comes last either way
  function arranged(data, {text, keep, chosen, key, down}) {
    const wanted = text.trim().toLowerCase();
    const found = [...data.rows.keys()].filter((i) => {
      const row = data.rows[i];
      return row.strategy.toLowerCase().includes(wanted) && (keep === null || row.keep === keep)
        && (!chosen.size || chosen.has(row.strategy));
    });
    if (key === null) return found;
    const value = new Map(found.map((i) => [i, sortValue(data, data.rows[i], key)]));
    return found.sort((a, b) => {
      const x = value.get(a), y = value.get(b);
      if (x === null || x === undefined || y === null || y === undefined) return (x === null || x === undefined) - (y === null || y === undefined) || a - b;
      const order = typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x === y ? 0 : x - y;
      return (down ? -order : order) || a - b;
    });
  }

  // a value as it is read: shares in percent, scores as they are
  const shares = (name) => name in MEASURES;
  function told(value, name) {
    if (!shares(name)) return Number(value.toPrecision(4)).toString();
    return (value * 100).toFixed(1) + "\u2009%";
  }
  function tickText(value, name) {
    return shares(name) ? Number((value * 100).toPrecision(4)) + "%" : Number(value.toPrecision(4)).toString();
  }

  return {AXES, MEASURES, axes, number, measures, series, front, span, scale, ticks, placesOf, nearest, sortValue, arranged, told, tickText};
})();
