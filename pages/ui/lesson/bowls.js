export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, [A, B] = part.grams, [a, b] = part.weights, names = [stage.data.common.digits, stage.data.common.clothes];
  const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], reach = 0.5, scene = space({ middle, reach, high: 0.03 });
  const layer = svg("g", {}), drawing = stage.drawing(640, 440, layer);
  let w = [...middle], alpha = 0.5, shown = stage.still || stage.address.get("lowest") === "1";
  const total = (v) => alpha * loss(A, a, v) + (1 - alpha) * loss(B, b, v);
  const best = () => { // (P + Q)⁻¹ (P a + Q b), two by two
    const S = [0, 1].map((i) => [0, 1].map((j) => alpha * A[i][j] + (1 - alpha) * B[i][j]));
    const r = [0, 1].map((i) => alpha * (A[i][0] * a[0] + A[i][1] * a[1]) + (1 - alpha) * (B[i][0] * b[0] + B[i][1] * b[1]));
    const det = S[0][0] * S[1][1] - S[0][1] * S[1][0];
    return [(S[1][1] * r[0] - S[0][1] * r[1]) / det, (S[0][0] * r[1] - S[1][0] * r[0]) / det];
  };
  function draw() {
    const mine = total(w), low = best(), height = total(low);
    layer.replaceChildren(floorShape(scene, reach, middle, [say("first"), say("second")]));
    const ends = [a, b].map((v) => scene.at(v));
    layer.append(svg("line", { x1: ends[0][0], y1: ends[0][1], x2: ends[1][0], y2: ends[1][1], style: "stroke: var(--muted)", "stroke-width": 1.5, "stroke-dasharray": "5 5" }));
    if (shown) layer.append(svg("polyline", { points: path(part.compromises.map((c) => scene.at(c.w))), style: "fill: none; stroke: var(--text); stroke-opacity: .45", "stroke-width": 3 }));
    layer.append(bowlShape(scene, A, a, "a", 0.02, 6, "loss_A"), bowlShape(scene, B, b, "b", 0.02, 6, "loss_B"));
    [a, b].forEach((v, t) => {
      const [x, y] = scene.at(v);
      layer.append(t ? svg("rect", { x: x - 7, y: y - 7, width: 14, height: 14, class: "b" }) : svg("circle", { cx: x, cy: y, r: 7, class: "a" }), words(x + (t ? 12 : -12), y + 20, names[t], { class: t ? "b" : "a end" }));
    });
    if (shown) {
      const [x, y] = scene.at(low), up = scene.at(low, height)[1];
      layer.append(svg("g", { "data-sym": "d" }, svg("line", { x1: x, x2: x, y1: y, y2: up, style: "stroke: var(--text)", "stroke-width": 5 }), words(x, up + 8, "★", { class: "middle", style: "font-size: 30px; fill: var(--star); stroke: var(--text); stroke-width: .8" }), words(x - 18, up + 10, `d = ${three(height)}`, { class: "big end" })));
    }
    const [bx, by] = scene.at(w, mine);
    layer.append(ballShape(scene, w, mine), words(bx + 18, by - 8, three(mine), { style: "font-weight: 600" }));
    stage.readout.textContent = shown ? say("lowest", { mine: mine.toFixed(5), lowest: height.toFixed(5) }) : say("now", { mine: mine.toFixed(5) });
  }
  const slider = stage.slider({ name: "alpha", label: say("alpha"), low: 0.05, high: 0.95, step: 0.05, value: 0.5, text: (x) => x.toFixed(2), input: (x) => { alpha = x; draw(); } });
  alpha = slider.value;
  const places = ["first", "second"].map((name, k) => stage.slider({ name: ["w1", "w2"][k], label: say(name), low: middle[k] - reach, high: middle[k] + reach, step: 0.005, value: middle[k], text: (x) => x.toFixed(2), input: (x) => { w[k] = x; draw(); } }));
  w = places.map((place) => place.value);
  const move = (to) => { w = to.map((x, k) => clamp(x, middle[k] - reach, middle[k] + reach)); places.forEach((place, k) => { place.value = w[k]; }); draw(); };
  dragging(drawing, scene, move);
  drawing.addEventListener("pointerup", () => w.forEach((x, k) => stage.address.set(["w1", "w2"][k], x.toFixed(3))));
  const toggle = stage.button("", () => { shown = !shown; stage.address.set("lowest", shown ? 1 : 0); name(); draw(); }, { class: "main" });
  const name = () => { toggle.textContent = shown ? say("shown") : say("show"); };
  name(); draw();
  const start = [...w];
  return { seconds: 9, play(t) { // the ball rolls to the lowest place, which then follows α
    scene.view.turn = 0.6 + 0.5 * Math.sin(2 * Math.PI * t);
    shown = t > 0.3;
    alpha = t < 0.45 ? 0.5 : 0.5 + 0.45 * Math.sin((2 * Math.PI * (t - 0.45)) / 0.55);
    slider.value = alpha;
    const low = best(), p = clamp(t / 0.35, 0, 1), eased = 3 * p * p - 2 * p ** 3;
    name(); move([start[0] + eased * (low[0] - start[0]), start[1] + eased * (low[1] - start[1])]);
  } };
});
