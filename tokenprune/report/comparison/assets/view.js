// Draws what Logic computes, and listens. Text from outside is only ever set as textContent.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const state = {part: 0, metric: 0, axis: null, intervals: "all", front: false, chosen: new Set(), lit: null,
    text: "", keep: null, key: null, down: true};
  let lines = [], placed = [];

  function element(tag, text = "", name = "") {
    const made = document.createElement(tag);
    if (text !== "") made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  function shape(tag, given, name = "") {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
    if (name) made.setAttribute("class", name);
    return made;
  }

  const options = (select, pairs) => $(select).replaceChildren(...pairs.map(([value, text]) => Object.assign(element("option", text), {value})));
  const color = (name) => (name === "full" ? "var(--ink)" : data.looks[name].color);
  const metricName = () => data.metrics[state.metric];
  const metricTitle = (name) => Logic.MEASURES[name] || name;

  function marker(look, x, y, size, fill) {
    const given = {fill, stroke: "var(--page)", "stroke-width": 0.8};
    const s = size, points = {
      "^": [[0, -s * 1.2], [s * 1.1, s], [-s * 1.1, s]], v: [[0, s * 1.2], [s * 1.1, -s], [-s * 1.1, -s]],
      D: [[0, -s * 1.3], [s * 1.3, 0], [0, s * 1.3], [-s * 1.3, 0]], s: [[-s, -s], [s, -s], [s, s], [-s, s]],
      P: [[-s / 2, -s * 1.2], [s / 2, -s * 1.2], [s / 2, -s / 2], [s * 1.2, -s / 2], [s * 1.2, s / 2], [s / 2, s / 2], [s / 2, s * 1.2],
        [-s / 2, s * 1.2], [-s / 2, s / 2], [-s * 1.2, s / 2], [-s * 1.2, -s / 2], [-s / 2, -s / 2]],
    }[look.marker];
    if (!points) return shape("circle", {cx: x, cy: y, r: s, ...given});
    return shape("polygon", {points: points.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" "), ...given});
  }

  function draw() {
    const width = Math.max(320, Math.round($("plot").getBoundingClientRect().width) || 900), height = width < 560 ? 330 : 430;
    const area = {left: 52, right: width - 12, top: 12, bottom: height - 44};
    const all = Logic.series(data, state.part, state.metric, state.axis);
    lines = state.chosen.size ? all.filter((line) => state.chosen.has(line.name)) : all;
    const points = lines.flatMap((line) => line.points);
    const xs = all.flatMap((line) => line.points.map((p) => p.x)).filter((x) => x !== null);
    const ends = {x: Logic.span(xs, state.axis.log, 0.06), y: Logic.span(points.flatMap((p) => [p.low, p.high]), false)};
    const name = metricName();
    if (name in Logic.MEASURES && name !== "relative") ends.y = [Math.max(-0.01, ends.y[0]), Math.min(1.01, ends.y[1])];
    const X = Logic.scale(ends.x, [area.left, area.right], state.axis.log), Y = Logic.scale(ends.y, [area.bottom, area.top], false);
    const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${metricTitle(name)} against ${state.axis.title}, ${data.parts[state.part]}; the table below has the numbers`});
    for (const tick of Logic.ticks(ends.y, false)) {
      svg.append(shape("line", {x1: area.left, x2: area.right, y1: Y(tick), y2: Y(tick)}, "grid"));
      const text = shape("text", {x: area.left - 7, y: Y(tick) + 4, "text-anchor": "end"}, "tick");
      text.textContent = Logic.tickText(tick, name);
      svg.append(text);
    }
    for (const tick of Logic.placesOf(all, state.axis, ends.x)) {
      svg.append(shape("line", {x1: X(tick), x2: X(tick), y1: area.bottom, y2: area.bottom + 5}, "frame"));
      const text = shape("text", {x: X(tick), y: area.bottom + 19, "text-anchor": "middle"}, "tick");
      text.textContent = String(tick);
      svg.append(text);
    }
    svg.append(shape("line", {x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom}, "frame"));
    const title = shape("text", {x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle"});
    title.textContent = state.axis.title;
    svg.append(title);
    if (state.front) {
      const steps = Logic.front(lines, (one) => data.looks[one].scale).map((p, i, every) =>
        (i ? `L${X(p.x)},${Y(every[i - 1].value)}L` : "M") + `${X(p.x)},${Y(p.value)}`);
      if (steps.length) svg.append(shape("path", {d: steps.join("")}, "front"));
    }
    placed = [];
    const pruned = lines.filter((line) => !line.level);
    for (const line of lines) svg.append(drawLine(line, X, Y, area, pruned));
    $("plot").replaceChildren(svg);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), ratio = width / box.width;
      point(Logic.nearest(placed, (event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio, 26), box, ratio);
    });
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("click", () => { if (state.lit !== null) choose(state.lit); });
    legend(all);
    light();
    $("axis-note").textContent = state.axis.key === "ms" ? `Milliseconds were measured apart from the answers: ${data.timed}.` : "";
  }

  function drawLine(line, X, Y, area, pruned) {
    const look = data.looks[line.name], tint = color(line.name);
    const group = shape("g", {"data-name": line.name}, "series");
    // bars of budgets that coincide stand side by side
    const shift = state.axis.key === "budget" ? Math.min(26, 2.2 * pruned.length) * ((pruned.indexOf(line) + 0.5) / pruned.length - 0.5) : 0;
    const at = line.points.map((p) => ({...p, name: line.name, px: p.x === null ? null : X(p.x) + (line.level ? 0 : shift), py: Y(p.value)}));
    if (line.level) {
      for (const p of at) {
        group.append(shape("line", {x1: area.left, x2: area.right, y1: p.py, y2: p.py, stroke: tint, "stroke-width": 1.4, "stroke-dasharray": "6 4"}, "line"));
        for (let x = area.left; x <= area.right; x += 30) placed.push({...p, px: x});
      }
    } else if (at.length > 1) {
      const given = {d: at.map((p, i) => `${i ? "L" : "M"}${p.px},${p.py}`).join(""), fill: "none", stroke: tint, "stroke-width": 1.7};
      if (look.dash.length) given["stroke-dasharray"] = look.dash.join(" ");
      group.append(shape("path", given, "line"));
    }
    for (const p of at) {
      if (p.px === null) continue;
      if (state.intervals !== "none" && p.low < p.high) {
        const bar = shape("path", {d: `M${p.px},${Y(p.low)}V${Y(p.high)}M${p.px - 3},${Y(p.low)}h6M${p.px - 3},${Y(p.high)}h6`, stroke: tint, fill: "none", "stroke-width": 1.1},
          "bar" + (state.intervals === "pointed" ? " pointed" : ""));
        group.append(bar);
      }
      group.append(marker(look, p.px, p.py, 3.6, tint));
      placed.push(p);
    }
    return group;
  }

  // a point of the chart, or null
  function point(found, box, ratio) {
    state.lit = found === null ? null : found.name;
    light();
    $("tip").hidden = found === null;
    if (found === null) return;
    const row = data.rows[found.row], name = metricName();
    const interval = found.low < found.high ? ` [${Logic.told(found.low, name)}, ${Logic.told(found.high, name)}]` : "";
    const costs = `${row.layers} tokens a layer, ${row.gflops} GFLOPs, ${row.kv} KiB` + (row.ms === null ? "" : `, ${row.ms} ms`);
    const p = row.pRandom === null ? "" : `p against random ${row.pRandom < 0.001 ? "< 0.001" : row.pRandom} (all questions)`;
    const told = [row.keep ? `keeps ${row.keep}` : "nothing pruned", `${metricTitle(name)} ${Logic.told(found.value, name)}${interval}`,
      `n = ${found.n}`, costs, p].filter(Boolean);
    $("tip").replaceChildren(element("strong", found.name), ...told.map((text) => element("span", text)));
    const place = $("plot").getBoundingClientRect(), whole = $("play").getBoundingClientRect();
    const x = place.left - whole.left + found.px / ratio, y = place.top - whole.top + found.py / ratio;
    $("tip").style.left = `${Math.max(0, Math.min(x + 14, whole.width - 285))}px`;
    $("tip").style.top = `${y + 14}px`;
  }

  // bring one strategy out, in the chart, the legend and the table
  function light() {
    for (const group of $("plot").querySelectorAll(".series")) {
      const mine = group.getAttribute("data-name") === state.lit;
      group.setAttribute("class", "series" + (state.lit === null ? "" : mine ? " lit" : " faded"));
      for (const bar of group.querySelectorAll(".pointed")) bar.style.display = mine ? "" : "none";
    }
    for (const row of $("table").querySelectorAll("tbody tr")) {
      row.classList.toggle("lit", state.lit !== null && data.rows[Number(row.dataset.row)].strategy === state.lit);
    }
  }

  function swatch(name) {
    const look = data.looks[name], svg = shape("svg", {width: 30, height: 14, "aria-hidden": "true"});
    const given = {x1: 0, x2: 30, y1: 7, y2: 7, stroke: color(name), "stroke-width": 2};
    if (look.dash.length) given["stroke-dasharray"] = look.dash.join(" ");
    svg.append(shape("line", given), marker(look, 15, 7, 3.6, color(name)));
    return svg;
  }

  function legend(all) {
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.name : undefined;
    $("legend").classList.toggle("some", state.chosen.size > 0);
    $("legend").replaceChildren(...all.map(({name}) => {
      const button = element("button");
      button.type = "button";
      button.dataset.name = name;
      button.setAttribute("aria-pressed", String(state.chosen.has(name)));
      button.append(swatch(name), element("span", name));
      const on = () => { state.lit = name; light(); }, off = () => { state.lit = null; light(); };
      button.addEventListener("pointerenter", on);
      button.addEventListener("pointerleave", off);
      button.addEventListener("focus", on);
      button.addEventListener("blur", off);
      button.addEventListener("click", () => choose(name));
      return button;
    }));
    if (focused !== undefined) {
      const again = [...$("legend").children].find((button) => button.dataset.name === focused);
      if (again) again.focus();
    }
    $("everyone").hidden = state.chosen.size === 0;
  }

  // show only what is chosen; what is chosen again goes; nothing chosen shows all
  function choose(name) {
    if (!state.chosen.delete(name)) state.chosen.add(name);
    state.lit = null; // on a screen that is touched, nothing says that the finger has gone
    $("tip").hidden = true;
    draw();
    arrange();
  }

  function everyone() {
    state.chosen.clear();
    state.lit = null;
    draw();
    arrange();
  }

  function arrange() {
    const body = $("table").querySelector("tbody"), rows = new Map([...body.querySelectorAll("tr")].map((row) => [Number(row.dataset.row), row]));
    const shown = Logic.arranged(data, state);
    const hidden = new Set(rows.keys());
    let before = null;
    for (const index of shown) {
      const row = rows.get(index), keep = data.rows[index].keep;
      hidden.delete(index);
      row.hidden = false;
      row.classList.toggle("next", state.key === null && before !== null && keep !== before);
      before = keep;
      body.append(row);
    }
    for (const index of hidden) rows.get(index).hidden = true;
    $("count").textContent = `${shown.length} of ${data.rows.length} rows`;
    for (const head of $("table").querySelectorAll("th")) {
      head.setAttribute("aria-sort", head.dataset.key !== state.key ? "none" : state.down ? "descending" : "ascending");
    }
  }

  function sortBy(key) {
    const rising = key === "strategy" || key.startsWith("p") && !key.startsWith("part");
    if (state.key !== key) { state.key = key; state.down = !rising; }
    else if (state.down !== rising) state.down = !state.down;
    else state.key = null; // the third press: the order of the budgets again
    arrange();
  }

  function lost() {
    const names = [...new Set(data.lost.map((one) => one.strategy))].sort();
    $("lost").hidden = names.length === 0;
    if (!names.length) return;
    options("lost-strategy", names.map((name) => [name, name]));
    const least = Math.min(...data.rows.filter((row) => row.keep).map((row) => row.keep));
    const best = data.rows.find((row) => row.keep === least && !data.looks[row.strategy].scale);
    // somebody's own strategy is what they came for
    $("lost-strategy").value = names.find((name) => data.looks[name].own) || (best && names.includes(best.strategy) ? best.strategy : names[0]);
    const show = () => {
      const found = data.lost.find((one) => one.strategy === $("lost-strategy").value && one.keep === Number($("lost-keep").value));
      $("lost-count").textContent = `${found.strategy} at ${found.keep} lost ${found.n} of the ${found.of} questions that the unpruned model answers`
        + (found.n > found.shown.length ? `; ${found.shown.length} of them:` : "");
      $("lost-table").querySelector("tbody").replaceChildren(...found.shown.map(([index, said]) => {
        const question = data.questions[index], row = element("tr");
        for (const text of [question.text, question.answer, question.full, said || "(nothing)", `${question.task}, ${question.id}`]) row.append(element("td", text));
        return row;
      }));
    };
    const budgets = () => {
      const keeps = data.lost.filter((one) => one.strategy === $("lost-strategy").value).map((one) => one.keep).sort((a, b) => a - b);
      const before = $("lost-keep").value;
      options("lost-keep", keeps.map((keep) => [keep, keep]));
      if (keeps.includes(Number(before))) $("lost-keep").value = before;
      show();
    };
    $("lost-strategy").addEventListener("change", budgets);
    $("lost-keep").addEventListener("change", show);
    budgets();
  }

  function metrics() {
    const found = Logic.measures(data, state.part);
    options("metric", found.map((m) => [m, metricTitle(data.metrics[m])]));
    if (!found.includes(state.metric)) state.metric = found[0];
    $("metric").value = state.metric;
  }

  function theme(name) { document.documentElement.dataset.theme = name; }

  const axes = Logic.axes(data);
  state.axis = axes[0] || Logic.AXES[0];
  options("part", data.parts.map((name, i) => [i, name]));
  options("axis", axes.map((axis) => [axis.key, axis.title]));
  options("keep-filter", [["", "every budget"], ...[...new Set(data.rows.map((row) => row.keep))].map((keep) => [keep, keep || "all tokens"])]);
  metrics();
  $("part").addEventListener("change", (event) => { state.part = Number(event.target.value); metrics(); draw(); });
  $("metric").addEventListener("change", (event) => { state.metric = Number(event.target.value); draw(); });
  $("axis").addEventListener("change", (event) => { state.axis = axes.find((axis) => axis.key === event.target.value); draw(); });
  $("intervals").addEventListener("change", (event) => { state.intervals = event.target.value; draw(); });
  $("front").addEventListener("change", (event) => { state.front = event.target.checked; draw(); });
  $("everyone").addEventListener("click", everyone);
  $("name-filter").addEventListener("input", (event) => { state.text = event.target.value; arrange(); });
  $("keep-filter").addEventListener("change", (event) => { state.keep = event.target.value === "" ? null : Number(event.target.value); arrange(); });
  for (const head of $("table").querySelectorAll("th")) {
    const button = element("button", head.textContent);
    button.type = "button";
    button.addEventListener("click", () => sortBy(head.dataset.key));
    head.replaceChildren(button);
  }
  for (const row of $("table").querySelectorAll("tbody tr")) {
    row.addEventListener("pointerenter", () => { state.lit = data.rows[Number(row.dataset.row)].strategy; light(); });
    row.addEventListener("pointerleave", () => { state.lit = null; light(); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") everyone(); });
  window.addEventListener("resize", draw);
  window.addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  theme(dark.matches ? "dark" : "light");
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  for (const id of ["theme", "controls", "filters"]) $(id).hidden = false;
  lost();
  draw();
  arrange();
  document.body.dataset.ready = "yes";
})();
