// A bowl in space: a paraboloid over a plane of two weights, drawn by rings of equal loss and spokes.
// `middle` is the plane's centre, `reach` half its width in weights, `high` the loss that is drawn as the full height.
function space({ middle, reach, high, width = 640, height = 430 }) {
  const scale = 215, tall = 190, view = { turn: 0.6, tilt: 0.42 };
  const at = ([w1, w2], loss = 0) => {
    const u = (w1 - middle[0]) / reach, v = (w2 - middle[1]) / reach, c = Math.cos(view.turn), s = Math.sin(view.turn);
    return [width / 2 + scale * (u * c - v * s), height - 118 + scale * view.tilt * (u * s + v * c) - tall * (loss / high)];
  };
  const back = (x, y) => { // where on the floor a point of the picture lies
    const a = (x - width / 2) / scale, b = (y - height + 118) / (scale * view.tilt), c = Math.cos(view.turn), s = Math.sin(view.turn);
    return [middle[0] + reach * (a * c + b * s), middle[1] + reach * (b * c - a * s)];
  };
  return { view, at, back, high, width, height };
}
const quadratic = (H, [x, y]) => (H[0][0] * x * x + 2 * H[0][1] * x * y + H[1][1] * y * y) / 2;
const loss = (H, floor, w) => quadratic(H, [w[0] - floor[0], w[1] - floor[1]]);

// Rings at equal steps of the root of the loss, as points of weight space: ring r of `rings` at height high·(r/rings)².
function ring(H, floor, top, part, points = 48) {
  const l11 = Math.sqrt(H[0][0]), l21 = H[0][1] / l11, l22 = Math.sqrt(H[1][1] - l21 * l21), radius = Math.sqrt(2 * top) * part;
  return Array.from({ length: points + 1 }, (_, k) => { // solve Lᵀδ = radius·(cos, sin)
    const angle = (2 * Math.PI * k) / points, y = (radius * Math.sin(angle)) / l22, x = (radius * Math.cos(angle) - l21 * y) / l11;
    return [floor[0] + x, floor[1] + y];
  });
}
const path = (points) => points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

function bowlShape(scene, H, floor, kind, top, rings = 7, symbol = null) {
  const group = svg("g", { "data-sym": symbol });
  for (const flat of [true, false]) for (let r = 1; r <= rings; r++) {
    const points = ring(H, floor, top, r / rings).map((w) => scene.at(w, flat ? 0 : top * (r / rings) ** 2));
    group.append(svg("polygon", { points: path(points), class: `line-${kind}`, "stroke-width": flat ? 1 : 1.7, "stroke-opacity": flat ? 0.28 : 0.35 + 0.5 * (r / rings), "stroke-dasharray": flat ? "3 4" : null, style: flat ? "" : `fill: var(--${kind}); fill-opacity: .07` }));
  }
  const rim = ring(H, floor, top, 1, 24);
  rim.slice(0, -1).forEach((end) => {
    const spoke = Array.from({ length: 9 }, (_, k) => k / 8).map((t) => scene.at([floor[0] + t * (end[0] - floor[0]), floor[1] + t * (end[1] - floor[1])], top * t * t));
    group.append(svg("polyline", { points: path(spoke), class: `line-${kind}`, "stroke-width": 0.8, "stroke-opacity": 0.3 }));
  });
  return group;
}

// The floor with its two axes.
function floorShape(scene, reach, middle, names) {
  const corner = (a, b) => scene.at([middle[0] + a * reach, middle[1] + b * reach]);
  const group = svg("g", {}, svg("polygon", { points: path([corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)]), class: "grid", style: "fill: var(--surface)" }));
  for (let k = -1; k <= 1; k += 0.5) {
    group.append(svg("polyline", { points: path([corner(k, -1), corner(k, 1)]), class: "grid" }), svg("polyline", { points: path([corner(-1, k), corner(1, k)]), class: "grid" }));
  }
  const [x1, y1] = corner(0.2, 1.14), [x2, y2] = corner(1.14, -0.1);
  group.append(words(x1, y1 + 12, names[0], { class: "small middle" }), words(x2, y2 + 12, names[1], { class: "small middle" }));
  return group;
}

// Drag a ball over the floor; `moved(w)` hears of every new place.
function dragging(node, scene, moved) {
  const place = (event) => {
    const box = node.getBoundingClientRect(), k = scene.width / box.width;
    return [(event.clientX - box.left) * k, (event.clientY - box.top) * k];
  };
  let grip = null;
  node.addEventListener("pointerdown", (event) => {
    const ball = event.target.closest?.(".drag");
    if (!ball) return;
    const [x, y] = place(event), [bx, by] = ball.dataset.floor.split(" ").map(Number);
    grip = [bx - x, by - y];
    node.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  node.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = place(event);
    moved(scene.back(x + grip[0], y + grip[1]));
  });
  node.addEventListener("pointerup", () => { grip = null; });
  node.addEventListener("pointercancel", () => { grip = null; });
}
function ballShape(scene, w, height, symbol = "w") {
  const [fx, fy] = scene.at(w), [x, y] = scene.at(w, height);
  return svg("g", { class: "drag", "data-sym": symbol, "data-floor": `${fx} ${fy}` },
    svg("ellipse", { cx: fx, cy: fy, rx: 12, ry: 5, style: "fill: var(--text); opacity: .25" }),
    svg("line", { x1: fx, y1: fy, x2: x, y2: y, style: "stroke: var(--text)", "stroke-width": 2, "stroke-dasharray": "2 4" }),
    svg("circle", { cx: x, cy: y, r: 22, style: "fill: transparent" }),
    svg("circle", { cx: x, cy: y, r: 12, style: "fill: var(--ball); stroke: var(--paper)", "stroke-width": 3 }));
}
