// Draws what Logic computes, and listens. Text from outside is only ever set as textContent.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SIDE = 480, CARD = 300;
  const state = {picture: null, image: null, budget: 0, heat: "none", hover: null, held: null, cursor: null, timer: null};
  let cards = [];

  function element(tag, text = "", name = "") {
    const made = document.createElement(tag);
    if (text !== "") made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  // what is pointed at, or else held: {word: i} or {patch: i}
  const pointed = () => state.hover || state.held;
  const patchPointed = () => (pointed() && pointed().patch !== undefined ? pointed().patch : null);
  const wordPointed = () => (pointed() && pointed().word !== undefined ? pointed().word : null);
  const nth = (rank) => "pick " + (rank + 1);

  function whereIs(patch) {
    const place = Logic.placeOf(state.picture, patch);
    const stretch = state.picture.grids.length > 1 ? `${place.name || "stretch " + (place.grid + 1)}, ` : "";
    return `${stretch}row ${place.row + 1}, column ${place.column + 1}`;
  }

  function open(index) {
    const told = data.pictures[index];
    state.picture = Logic.opened(told);
    state.hover = state.held = state.cursor = null;
    state.budget = Math.min(state.picture.n, told.budgets[Math.floor(told.budgets.length / 2)] || told.n);
    $("name").textContent = told.name;
    const slider = $("budget");
    slider.max = told.n;
    slider.value = state.budget;
    $("marks").replaceChildren(...told.budgets.map((keep) => Object.assign(element("option"), {value: keep})));
    $("marked").replaceChildren(...[told.n, ...told.budgets].map((keep, i) => {
      const button = element("button", i ? String(keep) : "all");
      button.type = "button";
      button.dataset.keep = keep;
      button.addEventListener("click", () => { stop(); budget(keep); });
      return button;
    }));
    prompt();
    heats();
    strategies();
    state.image = new Image();
    state.image.onload = () => { draw(); document.body.dataset.ready = "yes"; };
    state.image.src = told.picture;
  }

  function prompt() {
    const parts = state.picture.words.map((word, index) => {
      const counts = word.columns.length > 0;
      const span = element("span", word.text, "word " + (counts ? "counts" : "silent"));
      if (!counts) {
        span.title = "does not count as the question";
        return span;
      }
      span.dataset.word = index;
      span.tabIndex = 0;
      span.setAttribute("role", "button");
      span.addEventListener("pointerenter", () => point({word: index}));
      span.addEventListener("pointerleave", () => point(null));
      span.addEventListener("focus", () => point({word: index}));
      span.addEventListener("blur", () => point(null));
      span.addEventListener("click", () => hold({word: index}));
      span.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); hold({word: index}); }
      });
      return span;
    });
    $("prompt").replaceChildren(...parts);
  }

  function heats() {
    const own = [["none", "the picture"], ["score", "relevance: each strategy's score"],
      ["redundancy", "redundancy: likeness to what is kept"], ["order", "order of the picks"]];
    const maps = state.picture.maps.map((map, i) => ["map " + i, map.name]);
    $("heat").replaceChildren(...[...own, ...maps].map(([value, text]) => Object.assign(element("option", text), {value})));
    state.heat = "none";
  }

  function strategies() {
    cards = state.picture.strategies.map((strategy) => {
      const card = element("article", "", "card");
      card.dataset.strategy = strategy.name;
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      const answer = element("p", "", "answer");
      const count = element("p", "", "count");
      const note = element("p", "", "faint");
      card.append(element("h2", strategy.name), canvas, answer, count, note);
      listen(canvas);
      return {strategy, card, canvas, answer, count, note};
    });
    $("strategies").replaceChildren(...cards.map((one) => one.card));
  }

  function listen(canvas) {
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return Logic.patchAt(state.picture, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    canvas.addEventListener("pointermove", (event) => {
      const patch = at(event);
      if (patch !== (state.hover && state.hover.patch)) point(patch === null ? null : {patch});
    });
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("click", (event) => {
      const patch = at(event);
      if (patch !== null) { state.cursor = patch; hold({patch}); }
    });
  }

  function point(what) {
    state.hover = what;
    draw();
  }

  function hold(what) {
    const same = state.held && what && state.held.word === what.word && state.held.patch === what.patch;
    state.held = same ? null : what;
    draw();
  }

  function budget(keep) {
    state.budget = Math.min(state.picture.n, Math.max(1, keep));
    $("budget").value = state.budget;
    draw();
  }

  function sized(canvas, side) {
    const ratio = state.image.naturalHeight / state.image.naturalWidth;
    const scale = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(side * scale), height = Math.round(side * ratio * scale);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const pen = canvas.getContext("2d");
    pen.drawImage(state.image, 0, 0, width, height);
    return pen;
  }

  // a patch's rectangle in pixels of a canvas
  function box(pen, patch) {
    const {row, column, height, width, area: [left, top, right, bottom]} = Logic.placeOf(state.picture, patch);
    const x = (share) => Math.round((left + (right - left) * share) * pen.canvas.width);
    const y = (share) => Math.round((top + (bottom - top) * share) * pen.canvas.height);
    const x0 = x(column / width), x1 = x((column + 1) / width), y0 = y(row / height), y1 = y((row + 1) / height);
    return [x0, y0, x1 - x0, y1 - y0];
  }

  function paint(pen, values) {
    const found = Logic.ends(values);
    if (found === null) return null;
    for (const {start, height, width} of Logic.onTop(state.picture)) {
      for (let i = start; i < start + height * width; i++) {
        if (!Number.isFinite(values[i])) continue;
        const share = found.high > found.low ? (values[i] - found.low) / (found.high - found.low) : 0.5;
        pen.fillStyle = `rgba(${Logic.colour(share)},0.78)`;
        pen.fillRect(...box(pen, i));
      }
    }
    return found;
  }

  function veil(pen, presence) {
    const cover = element("canvas");
    cover.width = pen.canvas.width;
    cover.height = pen.canvas.height;
    const brush = cover.getContext("2d");
    brush.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--card");
    brush.fillRect(0, 0, cover.width, cover.height);
    brush.globalCompositeOperation = "destination-out";
    presence.forEach((share, patch) => {
      if (!share) return;
      brush.globalAlpha = share;
      brush.fillRect(...box(brush, patch));
    });
    pen.globalAlpha = 0.84;
    pen.drawImage(cover, 0, 0);
    pen.globalAlpha = 1;
  }

  function grid(pen) {
    const {width: across, height: down} = pen.canvas;
    pen.strokeStyle = "rgba(128,128,128,0.35)";
    pen.lineWidth = 1;
    pen.beginPath();
    for (const {height: rows, width: columns, area: [x0, y0, x1, y1]} of Logic.onTop(state.picture)) {
      for (let i = 1; i < columns; i++) {
        const x = Math.round((x0 + (x1 - x0) * i / columns) * across) + 0.5;
        pen.moveTo(x, y0 * down);
        pen.lineTo(x, y1 * down);
      }
      for (let i = 1; i < rows; i++) {
        const y = Math.round((y0 + (y1 - y0) * i / rows) * down) + 0.5;
        pen.moveTo(x0 * across, y);
        pen.lineTo(x1 * across, y);
      }
    }
    pen.stroke();
  }

  function outline(pen, patch, inner, outer) {
    const [x, y, w, h] = box(pen, patch);
    pen.lineWidth = 5;
    pen.strokeStyle = outer;
    pen.strokeRect(x, y, w, h);
    pen.lineWidth = 2;
    pen.strokeStyle = inner;
    pen.strokeRect(x, y, w, h);
  }

  function boxes(pen) {
    for (const [dash, tint] of [[[], "rgba(0,0,0,.6)"], [[6, 5], "#ffffff"]]) {
      pen.setLineDash(dash);
      pen.lineWidth = 2;
      pen.strokeStyle = tint;
      for (const [x0, y0, x1, y1] of state.picture.boxes) {
        const {width, height} = pen.canvas;
        pen.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
      }
    }
    pen.setLineDash([]);
  }

  const map = () => (state.heat.startsWith("map ") ? state.picture.maps[Number(state.heat.slice(4))] : null);

  function whole() {
    const pen = sized($("picture"), SIDE);
    const word = wordPointed();
    let values = null, legend = {tiles: "The tiles as the model saw them.", video: "The frames that the model saw."}[state.picture.kind]
      || "The picture as the model saw it.";
    if (word !== null) {
      values = Logic.wordPmi(state.picture, state.picture.words[word]);
      legend = `Pointwise mutual information with \u201c${state.picture.words[word].text.trim()}\u201d, in nats.`;
    } else if (map() !== null) {
      values = map().values;
      legend = `Encoder: ${map().name}.`;
    }
    const found = values === null ? null : paint(pen, values);
    grid(pen);
    boxes(pen);
    if (patchPointed() !== null) outline(pen, patchPointed(), "#fff", "#000");
    $("legend").textContent = legend;
    $("scale").style.visibility = found ? "visible" : "hidden";
    $("low").textContent = found ? Logic.told(found.low) : "";
    $("high").textContent = found ? Logic.told(found.high) : "";
  }

  function rings(pen, patches) {
    for (const patch of patches) {
      const [x, y, w, h] = box(pen, patch);
      for (const [width, tint] of [[4, "#000"], [2, "#fff"]]) {
        pen.beginPath();
        pen.arc(x + w / 2, y + h / 2, Math.max(3, Math.min(w, h) / 3), 0, 2 * Math.PI);
        pen.lineWidth = width;
        pen.strokeStyle = tint;
        pen.stroke();
      }
    }
  }

  function drawCard(one) {
    const {strategy, canvas} = one;
    const {n, layers, full} = state.picture;
    const pen = sized(canvas, CARD);
    const shown = Logic.budgetShown(strategy, state.budget);
    const chosen = Logic.kept(strategy, state.budget);
    const values = map() ? map().values : Logic.heat(state.picture, strategy, state.heat, state.budget);
    const found = values === null ? null : paint(pen, values);
    if (state.heat !== "redundancy") veil(pen, Logic.presence(strategy, state.budget, n, layers));
    boxes(pen);
    if (!strategy.nested) rings(pen, Logic.frameAt(strategy, state.budget).merged);
    if (state.heat === "redundancy") chosen.forEach((patch) => {
      pen.strokeStyle = "rgba(255,255,255,.9)";
      pen.lineWidth = 1.5;
      pen.strokeRect(...box(pen, patch));
    });
    const patch = patchPointed();
    if (patch !== null) {
      const near = Logic.redundancy(strategy, state.budget, patch);
      if (near !== null) outline(pen, near.by, "#ffb45e", "#000");
      outline(pen, patch, "#fff", "#000");
    }
    canvas.setAttribute("aria-label", `${strategy.name}: ${chosen.length} of ${n} patches`);
    const answer = Logic.answerAt(strategy, shown, full, n);
    const judged = answer.right === null ? "" : answer.right ? " \u2713" : " \u2717";
    one.answer.textContent = (answer.answer || "(nothing)") + judged;
    one.answer.className = "answer" + (answer.right === null ? "" : answer.right ? " right" : " wrong");
    const asked = answer.keep === n ? "with all tokens" : `at ${answer.keep} tokens (${Logic.told(answer.average)} a layer)`;
    one.count.textContent = `answered ${asked}; shown: ${chosen.length} of ${n}`;
    const notes = [];
    if (!strategy.nested) {
      notes.push(strategy.inside ? `Acts between layers: shown as it ran at ${shown}; the fainter, the earlier a patch left.`
        : `Chooses anew at each budget: shown as at ${shown}.`);
    }
    if (strategy.merges) notes.push("Merges what it drops" + (strategy.inside ? "." : " (rings)."));
    if (typeof answer.certain === "number") {
      notes.push(`The picks at ${answer.keep} tokens reach at least ${Logic.share(answer.certain)} of the best there can be by what the strategy maximises.`);
    }
    one.note.title = typeof answer.certain === "number" ? `A bound: ${strategy.certainBy}.` : "";
    if (found !== null && state.heat !== "order") notes.push(`${Logic.told(found.low)} (dark) to ${Logic.told(found.high)} (bright)`);
    if (state.heat === "score") notes.push(strategy.scores === null ? "Has no score before the language model." : strategy.scorerAbout);
    if (state.heat === "redundancy") {
      notes.push(strategy.own ? `${strategy.likeness}, as the strategy charges for it; frames: kept.`
        : "Cosine of visual tokens, for comparison: the strategy charges for something else or nothing; frames: kept.");
    }
    one.note.textContent = notes.join(" ");
    one.card.dataset.kept = chosen.length;
    one.card.dataset.shown = shown;
  }

  function words() {
    const patch = patchPointed();
    const spans = [...$("prompt").querySelectorAll("[data-word]")];
    let share = () => null;
    if (patch !== null) {
      const found = Logic.wordsOf(state.picture, patch);
      const high = found[0].value, low = found[found.length - 1].value;
      const value = new Map(found.map((word) => [word.index, word.value]));
      share = (index) => {
        const finite = Number.isFinite(value.get(index)) ? value.get(index) : Math.min(0, high);
        return high > low && Number.isFinite(low) ? (finite - low) / (high - low) : 0.5;
      };
    }
    for (const span of spans) {
      const index = Number(span.dataset.word), part = share(index);
      span.style.background = part === null ? "" : `rgb(${Logic.colour(part)})`;
      span.style.color = part === null ? "" : part > 0.55 ? "#000" : "#fff";
      span.classList.toggle("held", state.held !== null && state.held.word === index);
    }
  }

  function details() {
    const patch = patchPointed(), word = wordPointed(), out = [];
    if (patch !== null) {
      const best = Logic.wordsOf(state.picture, patch).slice(0, 5);
      const told = element("p", `Patch ${patch}: ${whereIs(patch)}. `);
      told.append(element("strong", "Speaks to "), best.map((one) => `${one.text} ${Logic.told(one.value)}`).join(", "), " nats.");
      out.push(told);
      const table = element("table");
      const head = element("tr");
      for (const name of ["strategy", "when", "score", "most like a kept patch"]) head.append(element("th", name));
      table.append(head);
      for (const {strategy} of cards) {
        const row = element("tr");
        const frame = strategy.nested ? null : Logic.frameAt(strategy, state.budget);
        const rank = strategy.nested ? strategy.rank[patch] : frame.rank[patch];
        const inside = frame !== null && frame.layers.length > 0;
        const layers = inside ? `in ${frame.layers[patch]} of ${state.picture.layers} layers` : null;
        const left = rank >= 0 && rank < Logic.budgetShown(strategy, state.budget);
        const when = layers || (left ? nth(rank) : strategy.nested ? `not yet (${nth(rank)})` : "not kept");
        const near = Logic.redundancy(strategy, state.budget, patch);
        const how = strategy.own ? strategy.likeness : "cosine";
        const like = near === null ? "\u2013" : `${how} ${Logic.told(near.value)} with ${whereIs(near.by)}`;
        const score = strategy.scores === null ? "\u2013" : Logic.told(strategy.scores[patch]);
        for (const text of [strategy.name, when, score, like]) row.append(element("td", text));
        table.append(row);
      }
      out.push(table);
    } else if (word !== null) {
      const values = Logic.wordPmi(state.picture, state.picture.words[word]);
      const best = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 3);
      const told = best.map((one) => `${whereIs(one)} (${Logic.told(values[one])})`).join("; ");
      out.push(element("p", `\u201c${state.picture.words[word].text.trim()}\u201d says most about: ${told}.`));
    } else {
      const {expected, full} = state.picture;
      out.push(element("p", `Unpruned, the model answers: ${full.answer || "(nothing)"}` + (expected === null ? "." : ` (right: ${expected}).`)));
      out.push(element("p", "Point at a word of the question, or at a patch.", "faint"));
    }
    $("details").replaceChildren(...out);
  }

  function draw() {
    if (!state.image || !state.image.complete || !state.image.naturalWidth) return;
    $("shown-budget").textContent = `${state.budget} of ${state.picture.n}`;
    for (const button of $("marked").children) button.setAttribute("aria-pressed", String(Number(button.dataset.keep) === state.budget));
    whole();
    cards.forEach(drawCard);
    words();
    details();
  }

  function stop() {
    if (state.timer !== null) clearInterval(state.timer);
    state.timer = null;
    $("play").setAttribute("aria-pressed", "false");
  }

  function play() {
    if (state.timer !== null) { stop(); return; }
    const end = state.picture.n;
    let keep = state.budget >= end ? 1 : state.budget;
    $("play").setAttribute("aria-pressed", "true");
    state.timer = setInterval(() => {
      keep = Math.min(end, keep + Math.max(1, Math.round(keep / 24)));
      budget(keep);
      if (keep >= end) stop();
    }, 90);
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function theme(name) {
    document.documentElement.dataset.theme = name;
    draw();
  }

  $("budget").addEventListener("input", (event) => { stop(); budget(Number(event.target.value)); });
  $("heat").addEventListener("change", (event) => { state.heat = event.target.value; draw(); });
  $("play").addEventListener("click", play);
  $("pictures").addEventListener("change", (event) => { stop(); open(Number(event.target.value)); });
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { state.held = null; point(null); }
  });
  listen($("picture"));
  $("picture").addEventListener("keydown", (event) => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (step) {
      event.preventDefault();
      const {height, width, start} = Logic.onTop(state.picture)[0];
      const at = state.cursor === null ? start + Math.floor(height / 2) * width + Math.floor(width / 2) : state.cursor;
      state.cursor = Logic.beside(state.picture, at, ...step);
      point({patch: state.cursor});
    } else if ((event.key === "Enter" || event.key === " ") && state.cursor !== null) {
      event.preventDefault();
      hold({patch: state.cursor});
    }
  });
  $("ramp").style.background = `linear-gradient(90deg,${[...Array(11).keys()].map((i) => `rgb(${Logic.colour(i / 10)})`)})`;
  $("notes").replaceChildren(...data.notes.map((note) => element("p", note)));
  $("facts").querySelector("table").replaceChildren(...data.facts.map(([name, value]) => {
    const row = element("tr");
    row.append(element("td", name), element("td", value));
    return row;
  }));
  $("pictures").replaceChildren(...data.pictures.map((one, i) => Object.assign(element("option", one.name), {value: i})));
  $("pictures-label").hidden = data.pictures.length < 2;
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  open(0);
})();
