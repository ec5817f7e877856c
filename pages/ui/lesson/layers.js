export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, names = [stage.data.common.digits, stage.data.common.clothes], last = part.plain.errors.length - 1;
  const chart = svg("g", {}), images = svg("g", {});
  stage.drawing(640, 490, chart, images);
  const of = (kind, k) => (k === last ? part[kind].errors.length - 1 : k), x = (k) => 56 + (k * 560) / last, y = (error) => 250 - 2.5 * error;
  const pictures = part.images.map((list, t) => list.map((hex, k) => ({ image: photo(hex, 62 + 46.5 * (k % 12), 318 + 88 * t + 42 * Math.floor(k / 12), 38), t, k })));
  const frames = pictures.flat().map(({ image, t, k }) => ({ image, t, k, frame: svg("rect", { x: image.getAttribute("x"), y: image.getAttribute("y"), width: 38, height: 38, fill: "none", stroke: "var(--bad)", "stroke-width": 4 }) }));
  images.append(...names.map((name, t) => words(50, 362 + 88 * t, name, { class: `${"ab"[t]} end`, style: "font-size: 13px" })), ...frames.flatMap(({ image, frame }) => [image, frame]));
  function draw() {
    const kind = way.value === "on" ? "compensated" : "plain", k = slider.value, rows = part[kind];
    chart.replaceChildren(words(10, 16, say("error"), { class: "small" }));
    for (const level of [0, 20, 40, 60, 80]) chart.append(svg("line", { x1: 56, x2: 616, y1: y(level), y2: y(level), class: "grid" }), words(46, y(level) + 5, level, { class: "small end" }));
    for (let n = 0; n <= last; n++) chart.append(svg("rect", { x: x(n) - 12, y: 258, width: 24, height: 18, rx: 4, style: `fill: var(--${n && n <= k ? "shared" : "surface"})`, "data-sym": "W" }), words(x(n), 292, n, { class: "small middle" }));
    chart.append(words(616, 311, say("axis"), { class: "small end" }));
    for (let t = 0; t < 2; t++) {
      const at = (n) => [x(n), y(rows.errors[of(kind, n)][t])], kindOf = "ab"[t];
      const other = Array.from({ length: last + 1 }, (_, n) => [x(n), y(part[kind === "plain" ? "compensated" : "plain"].errors[of(kind === "plain" ? "compensated" : "plain", n)][t])]);
      if (stage.still) chart.append(svg("polyline", { points: other.map(String).join(" "), class: `line-${kindOf}`, "stroke-width": 2.5, "stroke-dasharray": "3 5" }));
      chart.append(svg("polyline", { points: Array.from({ length: k + 1 }, (_, n) => at(n)).map(String).join(" "), class: `line-${kindOf}`, "stroke-width": 4, "stroke-linejoin": "round", "data-sym": "x" }));
      const [px, py] = at(k);
      chart.append(t ? svg("rect", { x: px - 7, y: py - 7, width: 14, height: 14, class: "b" }) : svg("circle", { cx: px, cy: py, r: 8, class: "a" }));
    }
    const wrong = rows.wrong[of(kind, k)];
    frames.forEach(({ image, t, k: n, frame }) => { frame.setAttribute("opacity", wrong[t][n] ? 1 : 0); image.setAttribute("opacity", wrong[t][n] ? 0.35 : 1); });
    const [ea, eb] = rows.errors[of(kind, k)];
    stage.readout.textContent = say("now", { n: k, a: percent(ea), b: percent(eb) });
  }
  let slider = { value: stage.still ? last : 0 };
  const way = stage.choice({ name: "compensation", label: say("compensate"), options: { off: say("switch_off"), on: say("switch_on") }, value: "off", input: () => draw() });
  slider = stage.slider({ name: "layers", label: say("layers"), low: 0, high: last, step: 1, value: slider.value, input: () => draw() });
  draw();
  return { seconds: 12, play(t) {
    const turn = t < 0.5 ? "off" : "on", k = Math.min(last, Math.floor((t < 0.5 ? t : t - 0.5) * 2 * (last + 2)));
    if (way.value !== turn) way.pick(turn);
    if (slider.value !== k || t >= 1) slider.change(t >= 1 ? last : k);
  } };
});
