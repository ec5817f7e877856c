export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, names = [stage.data.common.digits, stage.data.common.clothes];
  const all = part.tasks.flatMap((task, t) => task.images.map((hex, k) => ({ hex, t, k })));
  let chosen = clamp(parseInt(stage.address.get("image")) || 0, 0, all.length - 1);
  const lines = svg("g", { "data-sym": "w" }), input = svg("g", { "data-sym": "x" }), rings = svg("g", { "data-sym": "w" }), bars = svg("g", { "data-sym": "y" });
  stage.drawing(640, 430, lines, input, rings, bars);
  const y = (t, k) => 56 + 212 * t + 60 * k, x = 318, size = 55;
  const level = (t, k, image) => clamp(part.tasks[t].outputs[k][image] / part.tasks[t].most[k], 0, 1.15);
  part.tasks.forEach((task, t) => task.likes.forEach((hex, k) => {
    const kind = "ab"[t], id = `round-${stage.data.step}-${t}-${k}`;
    rings.append(svg("clipPath", { id }, svg("circle", { cx: x, cy: y(t, k), r: size / 2 })),
      photo(hex, x - size / 2, y(t, k) - size / 2, size, { "clip-path": `url(#${id})` }),
      svg("circle", { cx: x, cy: y(t, k), r: size / 2, class: `line-${kind}`, "stroke-width": 3 }));
  }));
  names.forEach((name, t) => rings.append(words(x, y(t, 0) - 36, name, { class: `${"ab"[t]} middle` })));

  function draw(image, travelled = 1) {
    lines.replaceChildren(); bars.replaceChildren();
    input.replaceChildren(photo(all[image].hex, 20, 150, 130), svg("rect", { x: 20, y: 150, width: 130, height: 130, class: "frame", "stroke-width": 2 }));
    const loud = { most: 0 };
    for (let t = 0; t < 2; t++) for (let k = 0; k < 3; k++) {
      const now = level(t, k, image), kind = "ab"[t], from = [152, 215], to = [x - size / 2 - 4, y(t, k)];
      if (now > loud.most) Object.assign(loud, { most: now, t, k });
      const curve = (p) => [from[0] + p * (to[0] - from[0]), from[1] + (3 * p * p - 2 * p ** 3) * (to[1] - from[1])];
      const whole = Array.from({ length: 21 }, (_, n) => curve(n / 20));
      lines.append(svg("polyline", { points: path(whole), class: "grid", "stroke-width": 1.5 }),
        svg("polyline", { points: path(whole.slice(0, 1 + Math.round(20 * travelled))), class: `line-${kind}`, "stroke-width": 1 + 8 * now, "stroke-opacity": now > 0.01 ? 0.25 + 0.6 * Math.min(1, now) : 0, "stroke-linecap": "round" }));
      const grown = clamp(3 * travelled - 2, 0, 1);
      bars.append(svg("rect", { x: x + 46, y: y(t, k) - 11, width: 225, height: 22, rx: 11, style: "fill: var(--surface)" }),
        svg("rect", { x: x + 46, y: y(t, k) - 11, width: Math.max(0, 195 * now * grown), height: 22, rx: 11, class: kind }),
        words(x + 52 + 195 * now * grown, y(t, k) + 5, three(+part.tasks[t].outputs[k][image].toFixed(2)), { class: "small" }));
    }
    stage.readout.textContent = loud.most > 0.02 ? say("loud", { task: names[loud.t], k: loud.k + 1 }) : say("silent");
  }
  const path = (points) => points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  const buttons = all.map(({ hex, t, k }, image) => el("button", { type: "button", "aria-pressed": "false", onclick: () => { pick(image, true); stage.address.set("image", image); } },
    el("img", { src: bitmap(hex), alt: say("image_of", { task: names[t], k: k + 1 }) })));
  let running = null;
  function pick(image, moving) {
    chosen = image;
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === image)));
    cancelAnimationFrame(running);
    if (!moving || matchMedia("(prefers-reduced-motion: reduce)").matches) return draw(image);
    const began = performance.now(), frame = (now) => { const t = clamp((now - began) / 700, 0, 1); draw(image, t); if (t < 1) running = requestAnimationFrame(frame); };
    running = requestAnimationFrame(frame);
  }
  stage.controls.append(el("div", { class: "strip", role: "group", "aria-label": say("images"), "data-part": "images" }, ...buttons));
  stage.cleanups.push(() => cancelAnimationFrame(running));
  pick(chosen, !stage.still);
  let shown = -1;
  return { seconds: 18, play(t) {
    const moment = t * all.length, image = Math.min(all.length - 1, Math.floor(moment));
    if (image !== shown) { cancelAnimationFrame(running); buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === image))); }
    shown = chosen = image;
    draw(image, clamp(1.6 * (t >= 1 ? 1 : moment - image), 0, 1));
  } };
});
