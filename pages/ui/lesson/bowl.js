export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, H = part.grams[0], own = part.weights[0], reach = 0.75, top = 0.035;
  const scene = space({ middle: own, reach, high: 0.05 }), layer = svg("g", {}), bars = svg("g", { "data-sym": "loss" }), small = svg("g", { "data-sym": "H" });
  const drawing = stage.drawing(640, 520, layer, bars, small);
  let w = [own[0] + 0.3, own[1] - 0.12];
  small.append(photo(part.means[0], 8, 8, 92), svg("rect", { x: 8, y: 8, width: 92, height: 92, class: "frame" }));
  part.pixels.forEach(([x, y], k) => small.append(svg("rect", { x: 8 + (x * 92) / 28 - 2, y: 8 + (y * 92) / 28 - 2, width: 7, height: 7, fill: "none", stroke: "var(--mark)", "stroke-width": 2.5 }), words(8 + (x * 92) / 28 + 8, 8 + (y * 92) / 28 + 7, String(k + 1), { style: "fill: var(--mark); font-size: 15px; font-weight: 700" })));
  small.append(words(8, 118, say("pixels"), { class: "small" }));
  function draw() {
    const height = loss(H, own, w), [x, y] = scene.at(own);
    layer.replaceChildren(floorShape(scene, reach, own, [say("first"), say("second")]), bowlShape(scene, H, own, "a", top, 7, "H"),
      svg("circle", { cx: x, cy: y, r: 6, class: "a", "data-sym": "w_A" }), words(x + 10, y + 18, "w", { class: "a", "data-sym": "w_A" }, ), ballShape(scene, w, height));
    layer.append(words(scene.at(w, height)[0] + 20, scene.at(w, height)[1] - 8, three(height), { class: "big", "data-sym": "loss" }));
    bars.replaceChildren(svg("line", { x1: 20, x2: 620, y1: 485, y2: 485, class: "grid", "stroke-width": 2 }), words(20, 515, say("bars"), { class: "small" }));
    part.inputs.forEach(([x1, x2], k) => {
      const error = (w[0] - own[0]) * x1 + (w[1] - own[1]) * x2, long = clamp(error, -0.9, 0.9) * 48;
      bars.append(svg("rect", { x: 22 + 15 * k, y: long > 0 ? 485 - long : 485, width: 10, height: Math.abs(long), rx: 2, class: "a" }));
    });
    stage.readout.textContent = say("now", { loss: three(height) });
  }
  const sliders = ["first", "second"].map((name, k) => stage.slider({
    name: ["w1", "w2"][k], label: say(name), low: own[k] - reach, high: own[k] + reach, step: 0.01, value: w[k], text: (x) => x.toFixed(2), input: (x) => { w[k] = x; draw(); },
  }));
  w = sliders.map((slider) => slider.value);
  const move = (to) => { w = to.map((x, k) => clamp(x, own[k] - reach, own[k] + reach)); sliders.forEach((slider, k) => { slider.value = w[k]; }); draw(); };
  dragging(drawing, scene, move);
  drawing.addEventListener("pointerup", () => w.forEach((x, k) => stage.address.set(["w1", "w2"][k], x.toFixed(2))));
  stage.button(say("home"), () => move([...own]));
  draw();
  const orbit = part.axes;
  return { seconds: 9, play(t) { // along the flat way, then along the steep one, while the bowl turns
    scene.view.turn = 0.6 + 0.9 * Math.sin(2 * Math.PI * t);
    const way = orbit[t < 0.5 ? 0 : 1], far = 0.55 * Math.sin(4 * Math.PI * t);
    move([own[0] + far * way[0], own[1] + far * way[1]]);
  } };
});
