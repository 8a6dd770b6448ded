// What is shown, computed from what was measured: pure functions, no document.
"use strict";
const Logic = (() => {
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

  // base 64 of little-endian float32
  function numbers(text) {
    const length = Math.floor(text.replace(/=+$/, "").length * 3 / 4);
    const view = new DataView(new ArrayBuffer(length));
    let bits = 0, held = 0, at = 0;
    for (const letter of text) {
      if (letter === "=") break;
      held = (held << 6 | LETTERS.indexOf(letter)) & 0xffffff;
      bits += 6;
      if (bits >= 8) {
        bits -= 8;
        view.setUint8(at++, held >> bits & 255);
      }
    }
    const out = new Float32Array(length / 4);
    for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
    return out;
  }

  // numbers unpacked, ranks worked out once
  function opened(picture) {
    const unpack = (text) => text === null ? null : numbers(text);
    return {
      ...picture,
      pmi: unpack(picture.pmi),
      maps: picture.maps.map((map) => ({...map, values: unpack(map.values)})),
      strategies: picture.strategies.map((strategy) => ({
        ...strategy,
        scores: unpack(strategy.scores),
        nested: strategy.order.length > 0,
        rank: ranks(strategy.order, picture.n),
        frames: strategy.frames.map((frame) => ({...frame, rank: ranks(frame.order, picture.n)})),
      })),
    };
  }

  function ranks(order, n) {
    const rank = new Array(n).fill(-1);
    order.forEach((patch, step) => { if (rank[patch] < 0) rank[patch] = step; });
    return rank;
  }

  // the largest budget chosen at that is no larger than the one asked for; the smallest where there is none
  function frameAt(strategy, budget) {
    let found = strategy.frames[0];
    for (const frame of strategy.frames) if (frame.keep <= budget) found = frame;
    return found;
  }

  // the budget that is really shown
  function budgetShown(strategy, budget) {
    return strategy.nested ? Math.min(budget, strategy.order.length) : frameAt(strategy, budget).keep;
  }

  function kept(strategy, budget) {
    return strategy.nested ? strategy.order.slice(0, budget) : frameAt(strategy, budget).order;
  }

  // share of the decoder layers that process each patch
  function presence(strategy, budget, n, layers) {
    const out = new Float32Array(n);
    const frame = strategy.nested ? null : frameAt(strategy, budget);
    if (frame !== null && frame.layers.length) frame.layers.forEach((count, i) => { out[i] = count / layers; });
    else for (const patch of kept(strategy, budget)) out[patch] = 1;
    return out;
  }

  // the kept patch that is most like this one, at the time it was picked or by now: {value, by} or null
  function redundancy(strategy, budget, patch) {
    if (!strategy.nested) {
      const frame = frameAt(strategy, budget);
      return frame.nearest[patch] < 0 ? null : {value: frame.nearness[patch], by: frame.nearest[patch]};
    }
    const grew = strategy.growth[patch];
    let found = null;
    for (let i = 0; i < grew.length && grew[i] < budget; i += 2) found = {value: grew[i + 1], by: strategy.order[grew[i]]};
    return found;
  }

  // pointwise mutual information of a word: its best token's
  function wordPmi(picture, word) {
    const out = new Float32Array(picture.n).fill(-Infinity);
    for (let i = 0; i < picture.n; i++) {
      for (const column of word.columns) out[i] = Math.max(out[i], picture.pmi[i * picture.tokens + column]);
    }
    return out;
  }

  // words that count, best first: [{word, value}]
  function wordsOf(picture, patch) {
    const found = [];
    picture.words.forEach((word, index) => {
      if (!word.columns.length) return;
      const value = Math.max(...word.columns.map((column) => picture.pmi[patch * picture.tokens + column]));
      found.push({index, text: word.text.trim(), value});
    });
    return found.sort((a, b) => b.value - a.value || a.index - b.index);
  }

  // the answer at the smallest marked budget that is no smaller than the one shown, and at the largest where none is
  function answerAt(strategy, budget, full, n) {
    if (budget >= n) return {...full, keep: n};
    const rising = [...strategy.answers].sort((a, b) => a.keep - b.keep);
    return rising.find((answer) => answer.keep >= budget) || {...full, keep: n};
  }

  // place of a patch: {grid, row, column, height, width, area}
  function placeOf(picture, patch) {
    for (let g = picture.grids.length - 1; g >= 0; g--) {
      const {height, width, start, area, name} = picture.grids[g];
      if (patch >= start) {
        return {grid: g, row: Math.floor((patch - start) / width), column: (patch - start) % width, height, width, area, name};
      }
    }
    return null;
  }

  // stretches that are seen: of several over one part of the picture (a thumbnail, then the picture) the last, finest one
  function onTop(picture) {
    const same = (a, b) => a.area.every((edge, i) => edge === b.area[i]);
    return picture.grids.filter((grid, i) => !picture.grids.slice(i + 1).some((later) => same(later, grid)));
  }

  // the patch at a point given in shares of the picture; null between frames
  function patchAt(picture, x, y) {
    for (const {height, width, start, area: [x0, y0, x1, y1]} of onTop(picture)) {
      if (x >= x0 && x < x1 && y >= y0 && y < y1) {
        return start + Math.floor((y - y0) / (y1 - y0) * height) * width + Math.floor((x - x0) / (x1 - x0) * width);
      }
    }
    return null;
  }

  // the patch a step away; at the edge of a frame or tile the next one, if there is any
  function beside(picture, patch, down, right) {
    const grids = onTop(picture), place = placeOf(picture, patch);
    const row = place.row + down, column = place.column + right;
    const mine = grids.findIndex((grid) => grid.start === picture.grids[place.grid].start);
    const inside = row >= 0 && row < place.height && column >= 0 && column < place.width;
    if (inside) return grids[mine].start + row * place.width + column;
    const next = grids[mine + (right || 0)];
    if (!right || next === undefined) return patch;
    return next.start + Math.min(row, next.height - 1) * next.width + (right > 0 ? 0 : next.width - 1);
  }

  // values to colours: ends of what is finite; a flat map has no ends of its own
  function ends(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (Number.isFinite(value)) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    return low > high ? null : {low, high};
  }

  // cividis, at eleven places: one order of brightness for everybody's eyes
  const RAMP = [[0, 32, 77], [0, 48, 110], [40, 63, 108], [72, 79, 107], [97, 95, 112], [121, 112, 120],
    [144, 129, 121], [170, 147, 116], [197, 167, 105], [226, 188, 85], [254, 232, 56]];

  function colour(share) {
    const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
    const low = Math.min(RAMP.length - 2, Math.floor(place));
    return RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (place - low)));
  }

  // what patches can be coloured by for one strategy at one budget: an array with NaN where there is nothing, or null
  function heat(picture, strategy, kind, budget) {
    if (kind === "score") return strategy.scores;
    if (kind === "redundancy") {
      const out = new Float32Array(picture.n).fill(NaN);
      for (let i = 0; i < picture.n; i++) {
        const found = redundancy(strategy, budget, i);
        if (found !== null) out[i] = found.value;
      }
      return out;
    }
    if (kind === "order") {
      const rank = strategy.nested ? strategy.rank : frameAt(strategy, budget).rank;
      const shown = budgetShown(strategy, budget);
      return Float32Array.from(rank, (step) => step < 0 || step >= shown ? NaN : -step);
    }
    return null;
  }

  // rounded down: what is certain must not be overstated
  function share(value) {
    return `${Math.floor(100 * value + 1e-9)} %`;
  }

  function told(value) {
    if (!Number.isFinite(value)) return value === -Infinity ? "\u2212\u221e" : "none";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 100000) return String(value).replace("-", "\u2212");
    const text = size !== 0 && (size < 0.001 || size >= 100000) ? value.toExponential(2) : value.toFixed(size < 1 ? 3 : 2);
    return text.replace("-", "\u2212");
  }

  return {numbers, opened, frameAt, budgetShown, kept, presence, redundancy, wordPmi, wordsOf, answerAt, placeOf, onTop, patchAt, beside,
    ends, colour, heat, share, told};
})();
