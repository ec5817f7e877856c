export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, [i, near, best] = part.neurons;
  const read = (hex) => Array.from({ length: 784 }, (_, k) => parseInt(hex.slice(2 * k, 2 * k + 2), 16));
  const weights = part.weights.map((hex) => read(hex).map((v) => (v - 128) / 127)), seen = read(part.seen).map((v) => v / 255);
  const [neg, pos, zero] = ["minus", "plus", "nought"].map((name) => [1, 3, 5].map((k) => parseInt(stage.colours[name].slice(k, k + 2), 16)));
  const pictures = [[250, 34], [60, 262], [440, 262]].map(([x, y]) => svg("image", { x, y, width: 140, height: 140, class: "pixels" }));
  const bars = svg("g", {}), light = svg("g", {});
  const box = ([x, y], kind) => svg("rect", { x: x - 2, y: y - 2, width: 144, height: 144, class: kind, fill: "none", "stroke-width": 3 });
  stage.drawing(640, 480,
    svg("g", { "data-sym": "w_i" }, pictures[0], box([250, 34], "line-b")), svg("g", { "data-sym": "w_j" }, pictures[1], box([60, 262], "frame"), pictures[2], box([440, 262], "line-a")),
    words(320, 22, say("looking", { i }), { class: "middle", style: "font-weight: 600" }), words(130, 250, say("near", { j: near }), { class: "middle" }), words(510, 250, say("best", { j: best }), { class: "middle a" }), light, bars);
  const photos = [photo(part.mean[0], 46, 62, 84), photo(part.mean[1], 510, 62, 84)];
  light.append(...photos, words(88, 166, say("light"), { class: "small middle" }), words(552, 166, say("light"), { class: "small middle" }));
  const rows = [["distance", part.distances], ["cost", part.differences]];
  rows.forEach(([name, values], r) => values.forEach((value, k) => {
    const x = [60, 440][k], y = 420 + 28 * r, most = Math.max(...values);
    bars.append(svg("g", { "data-sym": r ? "d" : null }, svg("rect", { x, y, width: 140, height: 20, rx: 5, style: "fill: var(--surface)" }), svg("rect", { x, y, width: (140 * value) / most, height: 20, rx: 5, class: r ? "both" : "grey", style: r ? "" : "fill: var(--muted); opacity: .55" }),
      words(x + 150, y + 15, three(value), {}), k ? null : words(320, y + 15, say(name), { class: "middle", style: "font-weight: 600" })));
  }));
  function draw(t) {
    const shown = weights.map((w) => w.map((v, k) => v * (1 - t + t * seen[k] ** 2))), most = Math.max(...shown.flat().map(Math.abs));
    shown.forEach((w, n) => {
      const bytes = w.map((v) => Math.round(128 + 127 * clamp(v / most, -1, 1)).toString(16).padStart(2, "0")).join("");
      pictures[n].setAttribute("href", bitmap(bytes, (v) => { const s = (v - 128) / 127, end = s < 0 ? neg : pos; return zero.map((z, c) => Math.round(z + Math.min(1, Math.abs(s) * 1.4) * (end[c] - z))); }));
    });
    photos.forEach((image) => { image.style.opacity = 0.2 + 0.8 * t; });
    stage.readout.textContent = `${say("ruler")}: ${part.distances.map(three).join(" < ")} · ${say("data")}: ${part.differences.map(three).join(" > ")}`;
  }
  const slider = stage.slider({ name: "view", label: say("view"), low: 0, high: 1, step: 0.02, value: stage.still ? 0.6 : 0, text: (x) => (x < 0.5 ? say("ruler") : say("data")), input: draw });
  draw(slider.value);
  return { seconds: 5, play(t) { slider.change(0.5 - 0.5 * Math.cos(Math.PI * Math.min(1, 1.25 * t))); } };
});
