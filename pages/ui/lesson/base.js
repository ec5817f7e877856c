// What all steps share: elements, texts with symbols, controls whose state stands in the address, playing, keys.
const SVG = "http://www.w3.org/2000/svg";

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);
const words = (x, y, text, more) => svg("text", { x, y, ...more }, text);

const three = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 || Math.abs(x) < 1e-4 ? x.toExponential(1) : String(+x.toPrecision(3)));
const percent = (x, digits = 1) => `${x.toFixed(digits)} %`;
const count = (x) => (x >= 1e6 ? `${(x / 1e6).toPrecision(3)} M` : x >= 1e3 ? `${(x / 1e3).toPrecision(3)} k` : String(x));
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    if (!(name in values)) throw new Error(`lesson: nothing to write for {${name}} in “${text}”`);
    return values[name];
  });
}

// A picture of 28 × 28 bytes in hexadecimal as a data URL; `paint` makes [r, g, b] of a byte.
function bitmap(hex, paint = (v) => [v, v, v], size = 28) {
  const canvas = el("canvas", { width: size, height: size }), context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  for (let k = 0; k < size * size; k++) image.data.set([...paint(parseInt(hex.slice(2 * k, 2 * k + 2), 16)), 255], 4 * k);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}
const photo = (hex, x, y, size, more) => svg("image", { href: bitmap(hex), x, y, width: size, height: size, class: "pixels", ...more });

const address = {
  get: (name) => new URLSearchParams(location.search).get(name),
  set(name, value) { // changes the address without a new entry in the history: Back stays one step
    const query = new URLSearchParams(location.search);
    query.set(name, value);
    history.replaceState(history.state, "", `${location.pathname}?${query}`);
  },
};

// One step: `draw(stage)` puts a picture and controls into it, and returns `{ play }` where something plays.
function lesson({ data, parentElement, setTriggerValue }, draw) {
  const { texts, common, facts, mode } = data, root = parentElement.querySelector(".lesson"), cleanups = [];
  const say = (name, values = {}) => filled(texts[name], { ...facts, ...values });
  root.replaceChildren();
  root.className = `lesson ${mode} step-${data.step}`;
  for (const [name, value] of Object.entries(data.colours)) root.style.setProperty(`--${name}`, value);

  const asked = (window.mtzLesson ??= { to: null, until: 0 }); // the step that was asked for and is not yet shown
  const ahead = () => (performance.now() < asked.until ? asked.to : data.step);
  const turn = (to, tries = 3) => { // a page that is still being drawn may miss it: ask again while this step is shown
    if (tries === 3) Object.assign(asked, { to, until: performance.now() + 5000 });
    setTriggerValue("go", to);
    const again = tries ? setTimeout(() => turn(to, tries - 1), 1500) : 0;
    cleanups.push(() => clearTimeout(again));
  };
  const light = (symbol) => root.querySelectorAll("[data-sym]").forEach((part) => part.classList.toggle("lit", part.dataset.sym === symbol));
  const symbol = (name, label) => el("span", {
    class: "symbol", "data-sym": name, onmouseenter: () => light(name), onmouseleave: () => light(null),
  }, label ?? name);
  const rich = (text) => text.split(/(\[\[\w+\]\])/).map((part) => (part.startsWith("[[") ? sign(part.slice(2, -2)) : part));
  function sign(name) { // w_A → w with a small A below
    const [letter, below] = name.split("_"), node = symbol(name, letter);
    if (below) node.append(el("sub", {}, below));
    return node;
  }
  root.onmouseover = (event) => { // the other way round: a part of the picture lights its symbol
    const part = event.target.closest?.("svg [data-sym]");
    if (part) light(part.dataset.sym);
  };
  root.onmouseout = (event) => { if (event.target.closest?.("svg [data-sym]")) light(null); };

  const stage = {
    data, part: data.part, say, texts, colours: data.colours, still: mode === "handout", address, light,
    picture: el("div", { class: "picture" }), controls: el("div", { class: "controls", "data-part": "controls" }),
    readout: el("p", { class: "readout", role: "status", "data-part": "numbers" }),
    send: setTriggerValue, cleanups,
    drawing(width, height, ...children) {
      const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": say("picture") }, ...children);
      stage.picture.append(node);
      return node;
    },
    slider({ name, label, low, high, step, value, text = (x) => x, input, keep = true }) {
      const asked = keep ? parseFloat(address.get(name)) : NaN, first = stage.still || Number.isNaN(asked) ? value : clamp(asked, low, high);
      const output = el("output", {}), range = el("input", { type: "range", min: low, max: high, step, value: first, "aria-label": label });
      const show = () => { output.textContent = text(+range.value); range.setAttribute("aria-valuetext", text(+range.value)); };
      range.oninput = () => { show(); input(+range.value); };
      if (keep) range.onchange = () => address.set(name, range.value);
      show();
      stage.controls.append(el("label", { class: "control", "data-part": name }, el("span", {}, label), output, range));
      return { get value() { return +range.value; }, set value(x) { range.value = x; show(); }, change(x) { range.value = x; range.oninput(); } };
    },
    choice({ name, label, options, value, input }) {
      const asked = address.get(name), first = !stage.still && asked in options ? asked : value;
      const buttons = Object.entries(options).map(([key, text]) => el("button", {
        type: "button", "aria-pressed": String(key === first), onclick: () => { result.pick(key); address.set(name, key); },
      }, text));
      const result = {
        value: first,
        pick(key) {
          result.value = key;
          Object.keys(options).forEach((other, k) => buttons[k].setAttribute("aria-pressed", String(other === key)));
          input(key);
        },
      };
      stage.controls.append(el("div", { class: "control choice", role: "group", "aria-label": label, "data-part": name }, el("span", {}, label), el("div", {}, ...buttons)));
      return result;
    },
    button(label, act, more) {
      const node = el("button", { type: "button", onclick: act, ...more }, label);
      stage.actions.append(node);
      return node;
    },
    actions: el("div", { class: "actions" }),
  };

  const made = draw(stage) || {};
  let player = null;
  const stop = () => { if (player) cancelAnimationFrame(player); player = null; };
  const play = () => { // `made.play(t)` draws the moment t of `made.seconds`
    stop();
    const began = performance.now(), long = 1000 * (made.seconds || 4);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return made.play(1);
    const frame = (now) => {
      const t = clamp((now - began) / long, 0, 1);
      made.play(t);
      player = t < 1 ? requestAnimationFrame(frame) : null;
    };
    player = requestAnimationFrame(frame);
  };
  cleanups.push(stop);
  stage.picture.addEventListener("pointerdown", stop);
  stage.controls.addEventListener("pointerdown", stop);
  if (made.play) stage.actions.prepend(el("button", { type: "button", onclick: play, "data-part": "play", class: "play" }, `▶ ${common.play}`));
  stage.controls.append(stage.actions);

  const answer = mode === "handout"
    ? () => el("div", { class: "upside" }, el("b", {}, `${common.answers}: `), say("answer"))
    : () => el("details", {}, el("summary", {}, common.answer), el("p", {}, say("answer")));
  const symbols = Object.entries(texts.symbols || {}).map(([name, text]) => el("div", {}, el("dt", {}, sign(name)), el("dd", {}, filled(text, facts))));
  root.append(
    ...(mode === "handout" ? [] : [bar()]),
    el("section", { class: "text" },
      texts.formula && el("p", { class: "kicker" }, filled(common.step, { k: data.step, n: data.steps })),
      el(mode === "handout" ? "h2" : "h1", {}, say("title")),
      el("p", { class: "idea" }, say("idea")),
      texts.formula && el("div", { class: "formula", "data-part": "formula" }, el("p", { class: "line" }, ...rich(say("formula"))), el("dl", {}, ...symbols)),
      texts.try && el("p", { class: "try", "data-part": "try" }, el("b", {}, common.try), " ", say("try")),
      texts.question && el("div", { class: "question", "data-part": "question" }, el("p", {}, el("b", {}, common.question), " ", say("question")), answer()),
    ),
    el("section", { class: "show" }, stage.picture, stage.readout, stage.controls),
  );
  for (const name of data.hide) root.querySelectorAll(`[data-part="${CSS.escape(name)}"]`).forEach((part) => { part.hidden = true; });

  function bar() {
    const go = (to) => turn(to), at = data.order.indexOf(data.step), last = data.order.length - 1;
    const dots = data.order.map((name, k) => el("button", {
      type: "button", class: k < at ? "past" : "", "aria-current": k === at ? "step" : null, title: data.titles[k],
      "aria-label": `${name === "end" ? common.end : name}: ${data.titles[k]}`, onclick: () => go(name),
    }, name === "end" ? "★" : name));
    const move = (by, label, kind) => el("button", { type: "button", class: kind, disabled: at + by < 0 || at + by > last, onclick: () => go(data.order[at + by]) }, label);
    return el("nav", { class: "bar", "aria-label": common.steps },
      el("div", { class: "dots", "data-part": "steps" }, ...dots),
      el("span", { class: "keys" }, common.keys),
      el("div", { class: "moves", "data-part": "nav" }, move(-1, `← ${common.back}`, ""), move(1, `${common.next} →`, "main")));
  }

  const onKey = (event) => {
    const inner = event.composedPath()[0], busy = inner instanceof Element && inner.closest("input, textarea, select, [role=slider], [role=grid], [contenteditable]");
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented || busy) return;
    const at = data.order.indexOf(ahead()), by = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
    if (by && data.order[at + by]) { turn(data.order[at + by]); event.preventDefault(); }
    const onButton = inner instanceof Element && inner.closest("button, a, summary");
    if (event.key === " " && made.play && !onButton) { play(); event.preventDefault(); }
    if (mode !== "present") return;
    if (event.key.toLowerCase() === "c") root.classList.toggle("with-controls");
    if (event.key.toLowerCase() === "a") { const box = root.querySelector("details"); if (box) box.open = !box.open; }
  };
  if (mode !== "handout") {
    document.addEventListener("keydown", onKey);
    if (asked.to === data.step) asked.until = 0;
    else if (ahead() !== data.step) turn(asked.to); // keys that came faster than the pages
    cleanups.push(() => document.removeEventListener("keydown", onKey));
  }
  return () => cleanups.forEach((clean) => clean());
}
