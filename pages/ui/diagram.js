// Geometry and motion only: every number, sentence and colour comes with `data`.
const SLOW = 750, REST = 1300; // milliseconds: a change, and between two layers when a run is played
const PROGRESS = { apart: 0, possible: 0, waiting: 0, merging: 0.45, planned: 1, merged: 1 };
const LEAST = 1.5, SMALL = 5; // pixels: no mark is smaller, or it could not be seen; and those below get a ring

const mix = (a, b, k) => a + (b - a) * k;
const ease = (k) => (k < 0.5 ? 4 * k * k * k : 1 - (-2 * k + 2) ** 3 / 2);
const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
function ramp(colours, k) {
  const at = Math.max(0, Math.min(1, k)) * (colours.length - 1), i = Math.min(colours.length - 2, Math.floor(at));
  const [a, b] = [rgb(colours[i]), rgb(colours[i + 1])];
  return `rgb(${a.map((v, c) => Math.round(mix(v, b[c], at - i))).join(",")})`;
}

// What is to be seen of a column: numbers of its marks, and the part of every task's channels that is shared.
function target(column, state) {
  const p = PROGRESS[state];
  return {
    shared: p * column.shared,
    own: column.parents.map((n, t) => mix(n, column.private[t], p)),
    part: column.widths.map((n, t) => (n ? (p * column.sharedChannels[t]) / n : null)),
  };
}
const between = (a, b, k) => ({
  shared: mix(a.shared, b.shared, k),
  own: a.own.map((n, t) => mix(n, b.own[t], k)),
  part: b.part.map((n, t) => (n === null || a.part[t] === null ? n : mix(a.part[t], n, k))),
});

export default function ({ data, parentElement, setTriggerValue }) {
  const find = (name) => parentElement.querySelector(name);
  const frame = find(".frame"), stage = find(".stage"), track = find(".track"), paint = find(".paint");
  const lanes = find(".lanes"), list = find(".columns"), told = find(".told");
  const { tasks, columns, palette, frames } = data, T = tasks.length, C = columns.length;
  frame.style.height = `${data.height}px`;
  const memory = (frame.memory ??= {});
  clearInterval(memory.timer); cancelAnimationFrame(memory.motion);

  // A new network starts where it stands; the same one moves from what is seen.
  const same = memory.names === data.identity && memory.now?.length === C;
  memory.names = data.identity;
  if (memory.step === undefined || !same) memory.step = frames && !still() ? 0 : frames?.length;
  const order = new Map((frames ?? []).map((f, k) => [f.column, k]));
  const stateOf = (c) => {
    if (!frames || !order.has(c)) return columns[c].state;
    const k = order.get(c);
    return k < memory.step ? "merged" : k === memory.step && memory.playing ? "merging" : "waiting";
  };
  const goals = () => columns.map((column, c) => target(column, stateOf(c)));
  if (!same) { memory.now = goals(); memory.cursor = data.selected ?? 0; }

  // Geometry
  let g = null;
  const measure = () => {
    const width = stage.clientWidth, narrow = width < 600;
    if (!width) return null;
    const gutter = narrow ? 58 : 92, least = C > 24 ? 40 : 46;
    const pitch = Math.max(least, Math.min(280, (width - gutter - 26) / C));
    const longest = Math.max(...columns.map((c) => c.name.length)) * 7 + 6;
    const vertical = longest > pitch, names = vertical ? Math.min(112, longest) + 6 : 24;
    const height = stage.clientHeight - 1, room = height - data.rail - names;
    const lane = room / (T + 1), side = Math.max(4, Math.min(lane - 8, pitch - 12, 110));
    const above = Math.ceil(T / 2);
    const middle = (row) => data.rail + lane * (row + 0.5);
    return {
      width, height, gutter, pitch, vertical, names, lane, side, full: Math.max(width, gutter + pitch * C + 26),
      x: (c) => gutter + pitch * (c + 0.5),
      y: (t) => middle(t < above ? t : t + 1),
      shared: middle(above),
      rail: data.rail - 16,
    };
  };
  const edge = (n) => (n > 0 ? Math.max(LEAST, g.side * Math.sqrt(n / data.unit)) : 0);

  // Joins stand between the column after which they come and the next.
  const places = () => {
    const at = new Map(columns.map((_, c) => [c, g.x(c)]));
    const gaps = Map.groupBy ? Map.groupBy(data.joins, (j) => j.after) : data.joins.reduce((m, j) => m.set(j.after, [...(m.get(j.after) ?? []), j]), new Map());
    for (const [after, joins] of gaps) joins.forEach((j, k) => at.set(j.node, g.x(after) + (g.pitch * (k + 1)) / (joins.length + 1)));
    at.set(-1, g.gutter - 12); at.set(-2, g.x(C - 1) + g.pitch / 2 + 8);
    return at;
  };

  const rail = (c, at) => {
    const y = g.rail, ordered = [...at.keys()].sort((a, b) => at.get(a) - at.get(b));
    const rank = new Map(ordered.map((node, k) => [node, k]));
    for (const path of data.paths) {
      const [a, b] = [at.get(path.source), at.get(path.target)], own = path.tasks.length < T;
      c.strokeStyle = own ? palette.tasks[path.tasks[0] % palette.tasks.length] : palette.muted;
      c.setLineDash(own ? [5, 3] : []); c.lineWidth = 1.6; c.globalAlpha = 0.9; c.beginPath();
      if (Math.abs(rank.get(path.target) - rank.get(path.source)) === 1) { c.moveTo(a, y); c.lineTo(b, y); }
      else {
        const high = Math.min(data.rail - 20, 12 + 12 * Math.log2(1 + Math.abs(b - a) / g.pitch)) / 0.75, lean = Math.min(Math.abs(b - a) / 3, 40);
        c.moveTo(a, y); c.bezierCurveTo(a + lean, y - high, b - lean, y - high, b, y);
      }
      c.stroke();
      if (path.target === -2) { c.setLineDash([]); c.beginPath(); c.moveTo(b - 5, y - 4); c.lineTo(b, y); c.lineTo(b - 5, y + 4); c.stroke(); }
    }
    c.setLineDash([]); c.globalAlpha = 1;
    columns.forEach((_, k) => { c.fillStyle = palette.muted; c.beginPath(); c.arc(g.x(k), y, 3.2, 0, 7); c.fill(); });
    for (const join of data.joins) {
      const x = at.get(join.node), r = 5.5;
      c.fillStyle = palette.paper; c.strokeStyle = palette.text; c.lineWidth = 1.4; c.beginPath();
      if (join.kind === "concat") c.rect(x - r + 1, y - r, 2 * r - 2, 2 * r); else c.arc(x, y, r, 0, 7);
      c.fill(); c.stroke(); c.beginPath();
      if (join.kind === "add") { c.moveTo(x - 3, y); c.lineTo(x + 3, y); c.moveTo(x, y - 3); c.lineTo(x, y + 3); }
      else if (join.kind === "concat") { c.moveTo(x - 3, y - 2); c.lineTo(x + 3, y - 2); c.moveTo(x - 3, y + 2); c.lineTo(x + 3, y + 2); }
      else { c.moveTo(x - 2.2, y - 2.2); c.lineTo(x + 2.2, y + 2.2); c.moveTo(x - 2.2, y + 2.2); c.lineTo(x + 2.2, y - 2.2); }
      c.stroke();
    }
  };

  // A task's channels from column to column: as far as they are shared, they run in the common lane.
  const strands = (c, first, last) => {
    const gap = Math.min(5, (g.side - 2) / T);
    for (let t = 0; t < T; t++) {
      const own = g.y(t), common = g.shared + (t - (T - 1) / 2) * gap;
      c.strokeStyle = palette.tasks[t % palette.tasks.length]; c.globalAlpha = 0.55;
      let before = 0;
      for (let k = 0; k <= C; k++) {
        const part = k < C ? (memory.now[k].part[t] ?? before) : 0;
        if (k >= first && k <= last + 1) {
          const a = k ? g.x(k - 1) : g.gutter - 4, b = k < C ? g.x(k) : g.x(C - 1) + g.pitch / 2 + 8;
          const strand = (from, to, weight) => {
            if (weight < 0.004) return;
            c.lineWidth = 0.8 + 3.2 * weight; c.beginPath(); c.moveTo(a, from);
            c.bezierCurveTo(mix(a, b, 0.5), from, mix(a, b, 0.5), to, b, to); c.stroke();
          };
          strand(common, common, Math.min(before, part));
          strand(own, own, Math.min(1 - before, 1 - part));
          strand(own, common, Math.max(0, part - before));
          strand(common, own, Math.max(0, before - part));
        }
        before = part;
      }
    }
    c.globalAlpha = 1;
  };

  const bands = (c, x, y, side, channels) => {
    const count = Math.min(channels, Math.floor(side / 4));
    if (side < 10 || count < 2) return;
    c.strokeStyle = palette.paper; c.globalAlpha = 0.45; c.lineWidth = 0.8; c.beginPath();
    for (let k = 1; k < count; k++) { c.moveTo(x, y + (side * k) / count); c.lineTo(x + side, y + (side * k) / count); }
    c.stroke(); c.globalAlpha = 1;
  };
  const hatch = (c, x, y, side) => {
    c.save(); c.beginPath(); c.rect(x, y, side, side); c.clip();
    c.strokeStyle = palette.paper; c.globalAlpha = 0.75; c.lineWidth = 1.6; c.beginPath();
    for (let k = -side; k < side; k += 6) { c.moveTo(x + k, y + side); c.lineTo(x + k + side, y); }
    c.stroke(); c.restore();
  };
  const point = (c, x, y, side, colour) => { // a ring leads the eye to what is too small to see
    if (side >= SMALL) return;
    c.strokeStyle = colour; c.lineWidth = 1; c.globalAlpha = 0.6; c.beginPath(); c.arc(x, y, SMALL, 0, 7); c.stroke(); c.globalAlpha = 1;
  };
  const marks = (c, k, beat) => {
    const column = columns[k], now = memory.now[k], x = g.x(k), state = stateOf(k);
    for (let t = 0; t < T; t++) {
      const side = edge(now.own[t]);
      if (!column.widths[t]) continue;
      if (!side) continue;
      const [left, top] = [x - side / 2, g.y(t) - side / 2];
      c.fillStyle = palette.tasks[t % palette.tasks.length]; c.fillRect(left, top, side, side);
      bands(c, left, top, side, column.widths[t] - column.sharedChannels[t] * PROGRESS[state]);
      if (column.why[t]) hatch(c, left, top, side);
      point(c, x, g.y(t), side, c.fillStyle);
      drawn.push({ column: k, task: t, side, numbers: now.own[t] });
    }
    const side = edge(now.shared), [left, top] = [x - side / 2, g.shared - side / 2];
    if (side) {
      const known = column.level !== null && PROGRESS[state] === 1;
      c.fillStyle = known ? ramp(palette.sequential, column.level) : palette.shared;
      c.fillRect(left, top, side, side);
      const strip = Math.min(side * 0.5, 5 * T);
      let y = top;
      const total = column.slots.reduce((sum, [, n]) => sum + n, 0) || 1;
      for (const [who, n] of column.slots) { // which tasks share, in their colours, at the edge of the mark
        const high = (side * n) / total;
        who.forEach((t, i) => { c.fillStyle = palette.tasks[t % palette.tasks.length]; c.fillRect(left + (strip * i) / who.length, y, strip / who.length, high); });
        y += high;
      }
      bands(c, left, top, side, total);
      c.strokeStyle = palette.text; c.lineWidth = 1; c.setLineDash(state === "planned" ? [3, 2] : []); c.strokeRect(left, top, side, side); c.setLineDash([]);
      point(c, x, g.shared, side, palette.text);
      drawn.push({ column: k, task: -1, side, numbers: now.shared });
    }
    if (["possible", "waiting", "merging"].includes(state)) { // how large it will be
      const ghost = edge(column.shared);
      c.strokeStyle = state === "merging" ? palette.accent : palette.muted;
      c.lineWidth = state === "merging" ? 1.5 + beat : 1; c.setLineDash([3, 3]);
      c.strokeRect(x - ghost / 2, g.shared - ghost / 2, ghost, ghost); c.setLineDash([]);
    }
  };

  let drawn = [];
  const draw = () => {
    g = measure();
    if (!g) return;
    const ratio = Math.min(2, window.devicePixelRatio || 1), [w, h] = [g.width, g.height];
    if (track.style.width !== `${g.full}px`) track.style.width = `${g.full}px`;
    if (paint.width !== Math.round(w * ratio) || paint.height !== Math.round(h * ratio)) {
      paint.width = Math.round(w * ratio); paint.height = Math.round(h * ratio);
      paint.style.width = `${w}px`; paint.style.height = `${h}px`;
      place();
    }
    const c = paint.getContext("2d"), left = stage.scrollLeft;
    c.setTransform(ratio, 0, 0, ratio, 0, 0); c.clearRect(0, 0, w, h);
    c.translate(-left, 0);
    const first = Math.max(0, Math.floor((left - g.gutter) / g.pitch) - 1), last = Math.min(C - 1, Math.ceil((left + w - g.gutter) / g.pitch) + 1);
    c.fillStyle = palette.surface; c.fillRect(left, g.shared - g.lane / 2, w, g.lane);
    drawn = frame.drawn = [];
    rail(c, places());
    strands(c, first, last);
    const beat = still() ? 1 : 1 + Math.sin(performance.now() / 220);
    for (let k = first; k <= last; k++) marks(c, k, beat);
  };

  // Buttons carry names, keys and focus; the canvas is only paint.
  const place = () => {
    list.classList.toggle("vertical", g.vertical);
    [...list.children].forEach((button, k) => {
      button.style.left = `${g.x(k) - g.pitch / 2 + 1}px`; button.style.width = `${g.pitch - 2}px`;
      Object.assign(button.firstChild.style, g.vertical ? { maxHeight: `${g.names - 6}px`, top: `${g.height - g.names}px`, bottom: "auto" } : { maxHeight: "", top: "", bottom: "" });
    });
    lanes.replaceChildren(...[...tasks.map((name, t) => [name, g.y(t), palette.tasks[t % palette.tasks.length]]), ["shared", g.shared, palette.shared]].map(([name, y, colour]) => {
      const label = document.createElement("span"), chip = document.createElement("i");
      label.className = "lane"; label.style.top = `${y}px`; chip.style.background = colour;
      label.append(chip, name);
      return label;
    }));
  };
  const rest = () => { told.textContent = frames && memory.step > 0 ? frames[memory.step - 1].said : data.selected != null ? columns[data.selected].said : data.hint; };
  const look = (k) => { told.textContent = columns[k].said; };
  const open = (k) => {
    memory.cursor = k; look(k);
    const goal = data.focus?.[k] && document.querySelector(`.${CSS.escape(data.focus[k])} :is([role="slider"], input[type="range"])`);
    if (goal) { goal.scrollIntoView({ block: "center", behavior: still() ? "auto" : "smooth" }); goal.focus({ preventScroll: true }); }
    else if (!data.readonly) setTriggerValue("layer", { column: k });
  };
  const go = (k) => {
    memory.cursor = Math.max(0, Math.min(C - 1, k));
    [...list.children].forEach((b, i) => { b.tabIndex = i === memory.cursor ? 0 : -1; });
    list.children[memory.cursor].focus();
  };
  if (!same || list.childElementCount !== C) {
    list.replaceChildren(...columns.map((column) => {
      const button = document.createElement("button"), name = document.createElement("span");
      button.type = "button"; button.className = "column"; name.className = "name"; name.textContent = column.name;
      button.append(name);
      return button;
    }));
    paint.width = 0; // place anew
  }
  memory.cursor = Math.min(memory.cursor, C - 1);
  [...list.children].forEach((button, k) => {
    button.setAttribute("aria-label", columns[k].said);
    button.tabIndex = k === memory.cursor ? 0 : -1;
    if (data.selected != null) button.setAttribute("aria-pressed", String(k === data.selected)); else button.removeAttribute("aria-pressed");
    button.onpointerenter = () => look(k); button.onpointerleave = rest; button.onfocus = () => { memory.cursor = k; look(k); }; button.onblur = rest;
    button.onclick = () => open(k);
    button.onkeydown = (event) => {
      const to = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: C - 1 }[event.key];
      if (to !== undefined) { go(to); event.preventDefault(); }
    };
  });
  list.setAttribute("aria-label", `${data.label}. ${C} layers; arrow keys move from layer to layer${data.readonly ? "" : ", Enter opens one"}.`);

  // Motion
  const move = () => {
    cancelAnimationFrame(memory.motion);
    const goal = goals(), from = memory.now, began = performance.now();
    const alive = () => columns.some((_, k) => stateOf(k) === "merging");
    const tick = (time) => {
      const k = still() ? 1 : Math.min(1, Math.max(0, (time - began) / SLOW));
      memory.now = goal.map((to, c) => between(from[c], to, ease(k)));
      draw();
      if (frame.isConnected && (k < 1 || (alive() && !still()))) memory.motion = requestAnimationFrame(tick);
    };
    tick(began);
  };

  // A run that is played
  const bar = find(".bar"), play = find(".play"), step = find(".step"), when = find(".when");
  bar.hidden = !frames;
  const show = () => {
    const over = memory.step >= frames.length;
    play.textContent = memory.playing ? "❚❚ Pause" : over ? "↺ Replay" : "▶ Play";
    step.max = frames.length; step.value = memory.step;
    const next = frames[memory.step];
    if (memory.playing && next && g && g.full > g.width) stage.scrollTo({ left: g.x(next.column) - g.width / 2, behavior: "smooth" });
    when.textContent = memory.step ? frames[memory.step - 1].when : data.start;
    told.setAttribute("aria-live", memory.playing ? "off" : "polite");
    if (!list.contains(parentElement.activeElement ?? document.activeElement)) rest();
  };
  const run = () => {
    clearInterval(memory.timer);
    if (memory.playing) memory.timer = setInterval(() => {
      if (!frame.isConnected) return clearInterval(memory.timer);
      memory.step += 1;
      if (memory.step >= frames.length) { memory.playing = false; clearInterval(memory.timer); }
      show(); move();
    }, REST);
    show(); move();
  };
  if (frames) {
    if (memory.playing === undefined || !same) memory.playing = !still();
    play.onclick = () => { if (!memory.playing && memory.step >= frames.length) memory.step = 0; memory.playing = !memory.playing; run(); };
    step.oninput = () => { memory.playing = false; memory.step = Number(step.value); run(); };
  }

  find(".what").textContent = data.legend;
  const scale = find(".scale"), shade = find(".ramp").getContext("2d");
  scale.style.display = data.low === null ? "none" : "";
  find(".low").textContent = data.low ?? ""; find(".high").textContent = data.high ?? "";
  for (let x = 0; x < 120; x++) { shade.fillStyle = ramp(palette.sequential, x / 119); shade.fillRect(x, 0, 1, 1); }
  rest();
  draw();
  if (frames) run(); else move();
  if (data.selected != null && !same) stage.scrollLeft = Math.max(0, (g?.x(data.selected) ?? 0) - stage.clientWidth / 2);
  stage.onscroll = draw;
  const watcher = new ResizeObserver(() => { paint.width = 0; draw(); });
  watcher.observe(stage);
  return () => { watcher.disconnect(); clearInterval(memory.timer); cancelAnimationFrame(memory.motion); };
}
