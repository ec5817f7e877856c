export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, chart = svg("g", {});
  const drawing = stage.drawing(640, 410, chart);
  let shown = stage.still || stage.address.get("look") === "1" ? 1 : 0, running = null;
  const x = (size) => 70 + ((100 - size) / 52) * 540, mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  function draw() {
    const { points, leaves } = part.sweeps[pair.value], rows = points.map((point) => [100 * point.size, mean(point.errors)]).sort((p, q) => q[0] - p[0]);
    const own = mean(points[0].parents), high = own + Math.max(2, 1.15 * (Math.max(...rows.map((row) => row[1])) - own)), low = Math.max(0, own - 0.4 * (high - own)), y = (e) => 340 - (290 * (e - low)) / (high - low);
    chart.replaceChildren(words(14, 18, say("error"), { class: "small" }), words(610, 400, say("axis"), { class: "small end" }));
    for (let k = 0; k <= 4; k++) { const e = low + (k * (high - low)) / 4; chart.append(svg("line", { x1: 70, x2: 610, y1: y(e), y2: y(e), class: "grid" }), words(62, y(e) + 5, e.toFixed(1), { class: "small end" })); }
    for (const size of [100, 90, 80, 70, 60, 50]) chart.append(words(x(size), 364, size, { class: "small middle" }));
    chart.append(svg("rect", { x: 70, y: y(own + part.by), width: 540, height: y(own) - y(own + part.by), style: "fill: var(--good); opacity: .16" }), svg("line", { x1: 70, x2: 610, y1: y(own), y2: y(own), style: "stroke: var(--good)", "stroke-width": 2, "stroke-dasharray": "7 5" }), words(606, y(own) + 20, say("parents"), { class: "small end", style: "fill: var(--good)" }));
    const gx = x(guess.value);
    chart.append(svg("g", { class: "drag", "data-floor": "0 0" }, svg("line", { x1: gx, x2: gx, y1: 40, y2: 340, style: "stroke: var(--a)", "stroke-width": 4 }), svg("rect", { x: gx - 58, y: 26, width: 116, height: 28, rx: 14, class: "a" }), words(gx, 46, say("mine"), { class: "middle", style: "fill: var(--paper); font-weight: 600" })));
    if (shown > 0) {
      const until = 100 - shown * (100 - rows[rows.length - 1][0]), passed = rows.filter((row) => row[0] >= until - 1e-9), next = rows[passed.length];
      if (next) { const [s0, e0] = passed[passed.length - 1], p = (s0 - until) / (s0 - next[0]); passed.push([until, e0 + p * (next[1] - e0)]); }
      chart.append(svg("g", { "data-sym": "error" }, svg("polyline", { points: passed.map(([s, e]) => `${x(s)},${y(e)}`).join(" "), style: "fill: none; stroke: var(--text)", "stroke-width": 3.5, "stroke-linejoin": "round" }), ...passed.map(([s, e]) => svg("circle", { cx: x(s), cy: y(e), r: 5.5, style: "fill: var(--text)" }))));
      if (shown === 1 && leaves) chart.append(svg("line", { x1: x(100 * leaves), x2: x(100 * leaves), y1: 60, y2: 340, style: "stroke: var(--bad)", "stroke-width": 3, "stroke-dasharray": "4 4" }), words(x(100 * leaves), 78, percent(100 * leaves, 0), { class: "middle big", style: "fill: var(--bad)" }));
    }
    const values = { guess: percent(guess.value, 0) };
    stage.readout.textContent = shown < 1 ? say("ask", values) : leaves ? say("told", { ...values, size: percent(100 * leaves, 0) }) : say("never", { ...values, size: percent(rows[rows.length - 1][0], 0) });
  }
  let guess = { value: 75 };
  const pair = stage.choice({ name: "pair", label: say("pair"), options: { clothes: say("clothes"), seeds: say("seeds"), words: say("words") }, value: "clothes", input: () => { shown = 0; name(); draw(); } });
  guess = stage.slider({ name: "guess", label: say("guess"), low: 51, high: 99, step: 1, value: 75, text: (size) => `${size} %`, input: () => draw() });
  drawing.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1)) return;
    const box = drawing.getBoundingClientRect(), at = ((event.clientX - box.left) * 640) / box.width;
    guess.change(clamp(Math.round(100 - ((at - 70) / 540) * 52), 51, 99));
  });
  const look = stage.button("", () => { if (shown) { shown = 0; stage.address.set("look", 0); name(); draw(); } else reveal(); });
  const name = () => { look.textContent = shown ? say("hide") : say("look"); };
  const play = (t) => { shown = Math.max(t, 0.001); if (t >= 1) name(); draw(); };
  function reveal() {
    stage.address.set("look", 1);
    const began = performance.now();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return play(1);
    const frame = (now) => { const t = clamp((now - began) / 2200, 0, 1); play(t); if (t < 1) running = requestAnimationFrame(frame); };
    running = requestAnimationFrame(frame);
  }
  stage.button(say("zip"), () => stage.send("zip", { pair: pair.value, size: guess.value }), { class: "main", "data-part": "zip" });
  stage.controls.append(el("p", { style: "color: var(--muted); font-size: .9rem" }, say("note")));
  stage.cleanups.push(() => cancelAnimationFrame(running));
  name(); draw();
  return { seconds: 3, play };
});
