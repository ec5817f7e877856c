// The panel of sliders. Values live here while they are moved and go to Python when a slider is let go. Where Python
// says others (a plan, a link), they are taken over, unless what was sent last has not come back yet.

const STEPS = 20, PAUSE = 250; // keys move by 1 / STEPS; milliseconds after the last key until values are sent
const percent = (share) => `${+(100 * share).toFixed(1)}\u00a0%`;

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeRow(state, id, told, label, help) {
  const row = element("div", `mtz-row ${told}`), name = element("label", "mtz-name", label), said = element("output", "mtz-share");
  const input = element("input"), under = element("div", "mtz-under"), count = element("span"), part = element("span", "mtz-part");
  Object.assign(input, { type: "range", min: "0", max: "1", step: "any", id });
  name.htmlFor = id; said.htmlFor = id; name.title = help;
  const head = element("div", "mtz-head");
  head.append(name, said);
  under.append(count, part);
  row.append(head, input, under);
  return { row, input, said, count, part };
}

function makeCurve(row) {
  const frame = element("div", "mtz-curve"), mark = element("i"), ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg"), area = document.createElementNS(ns, "path"), line = document.createElementNS(ns, "path");
  svg.setAttribute("viewBox", "0 0 100 40"); svg.setAttribute("preserveAspectRatio", "none");
  area.setAttribute("class", "area"); line.setAttribute("class", "line");
  frame.setAttribute("aria-hidden", "true");
  svg.append(area, line); frame.append(svg, mark); row.append(frame);
  return { frame, area, line, mark };
}

const sharedOf = (state, values = state.values) => state.data.tables.groups.map((group, g) => {
  const k = state.data.sliders.findIndex((slider) => slider.group === g);
  return k >= 0 ? sharedCount(values[k], group.width) : state.data.fixed.includes(g) ? group.width : 0;
});

function drawCurve(state, parts, slider, shared) {
  const { choice, tables } = state.data, known = choice?.curves.find((curve) => curve.group === slider.group);
  parts.frame.style.display = known ? "" : "none";
  if (!known) return;
  const width = tables.groups[slider.group].width || 1, high = state.highest || 1;
  const y = (error) => 39 - 37 * Math.min(1, error / high);
  const points = known.counts.map((count) => {
    const trial = [...shared];
    trial[slider.group] = count;
    return [(100 * count) / width, y(predicted(choice, effectiveShares(tables, trial).shares).error)];
  });
  const path = points.map(([x, top]) => `${x.toFixed(2)} ${top.toFixed(2)}`).join("L");
  parts.line.setAttribute("d", `M${path}`);
  parts.area.setAttribute("d", `M0 40L${path}L100 40Z`);
  const now = predicted(choice, effectiveShares(tables, shared).shares).error;
  parts.mark.style.left = `${(100 * shared[slider.group]) / width}%`;
  parts.mark.style.top = `${(100 * y(now)) / 40}%`;
}

function countSaid(state, slider, asked, found) {
  const { width } = state.data.tables.groups[slider.group], count = found.shares[slider.group];
  const said = `${count} of ${width} shared`;
  if (count < asked) return `${said}: it reads nothing that is shared`;
  return found.alike.has(slider.group) ? `${said}, any with any: it reads nothing that is shared` : said;
}

function render(state) {
  const { data, rows } = state, shared = sharedOf(state), found = effectiveShares(data.tables, shared);
  const totals = totalsOf(data, found.shares), known = data.choice && predicted(data.choice, found.shares);
  data.sliders.forEach((slider, k) => {
    const { input, said, count, part, curve } = rows[k], value = state.values[k];
    const at = data.choice ? data.choice.curves.findIndex((each) => each.group === slider.group) : -1;
    input.value = value;
    said.textContent = percent(value);
    count.textContent = countSaid(state, slider, shared[slider.group], found);
    part.textContent = at < 0 ? "" : `${fixed(known.parts[at], 1)} of ${totals.error}`;
    input.style.setProperty("--at", value);
    input.setAttribute("aria-valuetext", `${percent(value)}, ${count.textContent}${known ? `, ${totals.error} of the ${data.changed} may change` : ""}`);
    drawCurve(state, curve, slider, shared);
  });
  const same = new Set(state.values).size < 2, mean = state.values.length ? sum(state.values) / state.values.length : 1;
  const all = state.all;
  all.input.value = mean;
  all.input.style.setProperty("--at", mean);
  all.input.disabled = !data.sliders.length;
  all.said.textContent = same ? percent(mean) : `${percent(mean)} on average`;
  all.input.setAttribute("aria-valuetext", `${all.said.textContent}, size ${totals.size}${known ? `, ${totals.error} of the ${data.changed} may change` : ""}`);
  document.dispatchEvent(new CustomEvent("mtz-totals", { detail: totals }));
  state.root.moved = { at: performance.now(), totals };
}

function send(state) {
  clearTimeout(state.timer);
  state.timer = null;
  state.dragging = false;
  state.sequence += 1;
  const shares = Object.fromEntries(state.data.sliders.map((slider, k) => [slider.name, state.values[k]]));
  state.send("moved", { session: state.session, sequence: state.sequence, shares });
}

function listen(state, input, set) {
  const move = (value) => { set(Math.max(0, Math.min(1, value))); render(state); };
  input.onpointerdown = () => { state.dragging = true; };
  input.oninput = () => { state.dragging = true; move(Math.round(100 * Number(input.value)) / 100); };
  input.onchange = () => send(state);
  input.onpointerup = input.onpointercancel = () => { state.dragging = false; };
  input.onkeydown = (event) => {
    const now = Number(input.value) * STEPS, up = Math.floor(now + 1e-6), down = Math.ceil(now - 1e-6);
    const goal = { ArrowRight: up + 1, ArrowUp: up + 1, ArrowLeft: down - 1, ArrowDown: down - 1, PageUp: up + 4, PageDown: down - 4, Home: 0, End: STEPS }[event.key];
    if (goal === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(goal / STEPS);
    clearTimeout(state.timer);
    state.timer = setTimeout(() => send(state), PAUSE);
  };
  input.onblur = () => { if (state.timer) send(state); };
}

function build(state) {
  const { data, root } = state, box = root.querySelector(".mtz-rows");
  box.replaceChildren();
  state.all = makeRow(state, "mtz-share-all", "mtz-all", "Share of all layers", "Moves all sliders below.");
  listen(state, state.all.input, (value) => state.values.fill(value));
  box.append(state.all.row);
  state.rows = data.sliders.map((slider, k) => {
    const row = makeRow(state, `mtz-share-${k}`, slider.told, slider.label, slider.help);
    row.curve = makeCurve(row.row);
    listen(state, row.input, (value) => { state.values[k] = value; });
    box.append(row.row);
    return row;
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".mtz-shares"), state = (root.state ??= { root, sequence: 0 });
  const identity = JSON.stringify(data.sliders.map(({ label, told }) => [label, told]));
  const other = state.identity !== identity || state.session !== data.session;
  const stale = state.dragging || state.timer || data.sequence < state.sequence;
  Object.assign(state, { data, send: setTriggerValue, session: data.session });
  if (state.identity !== identity) { state.identity = identity; build(state); }
  if (other || !stale) {
    state.values = data.sliders.map((slider) => slider.share);
    state.sequence = data.sequence;
  }
  const everything = sharedOf(state, data.sliders.map(() => 1));
  state.highest = data.choice ? predicted(data.choice, effectiveShares(data.tables, everything).shares).error : 0;
  render(state);
}
