// Sizes and predictions while a slider moves: what mtz_core/structure/sizes.py and mtz_core/budget/choice.py compute,
// from the tables of mtz_core/structure/tables.py. `shared` holds, for every group, how many channels are shared.

const rounded = (x) => { // half to even, as Python rounds
  const below = Math.floor(x), rest = x - below;
  return rest < 0.5 ? below : rest > 0.5 || below % 2 ? below + 1 : below;
};

const sharedCount = (share, width) => Math.max(0, Math.min(width, rounded(share * width)));

// Shares that can take effect, and the groups among them whose channels are all alike to their first layer.
function effectiveShares(tables, shared) {
  const wanted = new Set(), effective = new Map(), alike = new Set();
  for (const layer of tables.layers) if (shared[layer.group]) layer.sources.forEach((g) => wanted.add(g));
  for (const layer of tables.layers) {
    if (effective.has(layer.group)) continue;
    const founded = layer.raw || layer.sources.some((g) => effective.get(g));
    effective.set(layer.group, founded || wanted.has(layer.group) ? shared[layer.group] : 0);
    if (effective.get(layer.group) && !founded) alike.add(layer.group);
  }
  return { shares: shared.map((count, g) => effective.get(g) ?? count), alike };
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

function columnsOf(layer, shares) {
  const found = new Map([[layer.tasks.join(), [layer.tasks, layer.common]]]);
  for (const read of layer.reads) {
    const key = read.tasks.join(), before = found.get(key)?.[1] ?? 0;
    found.set(key, [read.tasks, before + shares[read.group] * read.per]);
  }
  return [...found.values()].map(([tasks, count]) => [tasks, rounded(count)]);
}

// Parameters of the zipped network; `shared` of those that can take effect.
function planTotal(tables, shares) {
  let total = sum(tables.parents);
  for (const layer of tables.layers) {
    const rows = rounded(shares[layer.group] * layer.part);
    const columns = columnsOf(layer, shares).filter(([tasks]) => tasks.length > 1);
    for (const [tasks, count] of columns) total -= (tasks.length - 1) * rows * count;
    if (layer.gained && rows) for (const [tasks, count] of columns) total += (tasks.length - 1) * count;
    if (layer.kept && columns.some(([, count]) => count)) total += (layer.tasks.length - 1) * rows;
  }
  return total;
}

function savedBetween([further, others, most], count) {
  const saved = further * count;
  return others === undefined ? [saved, saved] : [Math.max(0, saved - others), Math.min(saved, most)];
}

function savedWeights(a, b, n, m) {
  if (n.length === 2) return [a[0] * b[0], a[1] * b[1]];
  const second = (widths) => [...widths].sort((x, y) => x - y).at(-2);
  const low = sum(n.map((x, k) => x * m[k])) - (sum(n) - a[0]) * (sum(m) - b[0]);
  const rows = Math.min(a[1], sum(n) - a[0]), columns = Math.min(b[1], sum(m) - b[0]);
  return [Math.max(0, low), Math.min(a[1] * columns, b[1] * rows, b[1] * second(n), a[1] * second(m))];
}

// Bounds of the size where any subset of the tasks may share a neuron.
function planRange(tables, shares) {
  let least = 0, most = 0;
  for (const layer of tables.layers) {
    if (layer.tasks.length < 2) continue;
    const rows = rounded(shares[layer.group] * layer.part);
    const reads = layer.common || layer.sources.some((g) => shares[g]);
    const constant = reads ? layer.common - layer.kept : layer.common;
    const bounds = savedBetween(layer.saves, rows).map((saved) => saved * constant).sort((a, b) => a - b);
    least += bounds[0]; most += bounds[1];
    const gained = layer.gained && rows > 0;
    if (gained) { least -= (layer.tasks.length - 1) * layer.common; most -= (layer.tasks.length - 1) * layer.common; }
    for (const read of layer.reads) {
      if (read.tasks.length < 2) continue;
      const a = savedBetween(read.rowsSave, rows), b = savedBetween(read.columnsSave, shares[read.group]);
      const [low, high] = savedWeights(a, b, read.rows, read.columns);
      least += rounded(low * read.per); most += rounded(high * read.per);
      if (!gained) continue;
      const surely = read.tasks.length === 2 || a[0] === (read.tasks.length - 1) * Math.min(...read.rows);
      least -= rounded(b[1] * read.per); most -= surely ? rounded(b[0] * read.per) : 0;
    }
  }
  const total = sum(tables.parents);
  return [total - most, total - least];
}

function between(x, xs, ys) { // linear, and the ends beyond them
  if (x <= xs[0]) return ys[0];
  const k = xs.findIndex((at) => at > x);
  return k < 0 ? ys.at(-1) : ys[k - 1] + ((ys[k] - ys[k - 1]) / (xs[k] - xs[k - 1])) * (x - xs[k - 1]);
}

// What each curve's group adds to the divergence.
function divergences(choice, shares) {
  const width = new Map(choice.curves.map((curve) => [curve.group, curve.counts.at(-1)]));
  return choice.curves.map((curve) => {
    const part = curve.gate === null ? 1 : shares[curve.gate] / Math.max(1, width.get(curve.gate));
    return between(shares[curve.group], curve.counts, curve.divergences) * part ** curve.power;
  });
}

function expectedError(choice, divergence) {
  let expected = divergence;
  if (choice.together.length && divergence > 0) {
    const logs = choice.together.map(([x, y]) => [Math.log(x), Math.log(y)]);
    expected = divergence * Math.exp(between(Math.log(divergence), logs.map(([x]) => x), logs.map(([x, y]) => y - x)));
  }
  return Math.min(100, choice.rate * Math.sqrt(expected));
}

// Answers that may change, in %, and which part of them each curve's group accounts for.
function predicted(choice, shares) {
  const each = divergences(choice, shares), whole = choice.base + sum(each), error = expectedError(choice, whole);
  return { error, parts: each.map((one) => (whole > 0 ? (error * one) / whole : 0)) };
}

// Numbers as people read them: mtz_core/figures/text.py.
function fixed(x, digits) {
  const long = x.toFixed(digits + 30), tie = /50{29}$/.test(long);
  const even = tie && Number(long.slice(0, -30).replace(/\D/g, "").at(-1)) % 2 === 0;
  return even ? long.slice(0, -30).replace(/\.$/, "") : x.toFixed(digits);
}
const threeDigits = (x) => fixed(x, x < 9.995 ? 2 : x < 99.95 ? 1 : 0);
const inUnits = (x, units) => {
  const found = units.find(([, size]) => x >= size * 0.9995);
  return found ? `${threeDigits(x / found[1])}\u00a0${found[0]}` : fixed(x, 0);
};
const countText = (x) => inUnits(x, [["G", 1e9], ["M", 1e6], ["k", 1e3]]);
const bytesText = (x) => inUnits(x, [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) + (x < 999.5 ? "\u00a0B" : "");
const percentText = (ratio) => `${fixed(100 * ratio, 0)}\u00a0%`;

function totalsOf(data, shares) {
  const { tables, choice } = data, total = planTotal(tables, shares), all = sum(tables.parents);
  const [low, high] = data.subsets ? planRange(tables, shares) : [total, total];
  const about = low < high ? "≈ " : "";
  return {
    total, low, high,
    size: about + percentText(total / Math.max(1, all)),
    memory: `${about}${countText(total)} · ${bytesText(4 * total)}`,
    times: `${about}${fixed(total / Math.max(1, Math.min(...tables.parents)), 2)}×`,
    error: choice ? `${fixed(predicted(choice, shares).error, 1)}\u00a0%` : "–",
    bounds: about ? `between ${percentText(low / all)} and ${percentText(high / all)}` : "",
  };
}
