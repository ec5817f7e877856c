export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, names = [stage.data.common.digits, stage.data.common.clothes];
  const seen = svg("g", { "data-sym": "H" }), bars = svg("g", {});
  stage.drawing(640, 430, seen, bars);
  const now = [0, 0], shown = [0, 0];
  let running = null;
  const key = () => [few, one, bare].map((choice, k) => (choice.value === ["few", "one", "off"][k] ? 1 : 0)).join("");
  const means = (draws) => [0, 1].map((t) => draws.reduce((sum, draw) => sum + draw[t], 0) / draws.length);
  function paint() {
    const draws = part.errors[key()];
    bars.replaceChildren(words(20, 232, say("error"), { class: "small" }));
    shown.forEach((error, t) => {
      const y = 250 + 84 * t, x = (e) => 96 + 4.6 * e;
      bars.append(svg("rect", { x: 96, y, width: 460, height: 44, rx: 8, style: "fill: var(--surface)" }), svg("rect", { x: 96, y, width: 4.6 * error, height: 44, rx: 8, class: "ab"[t] }), words(88, y + 28, names[t], { class: `end ${"ab"[t]}` }), words(564, y + 30, percent(error), { class: "big", style: "font-size: 21px" }));
      draws.forEach((draw) => bars.append(svg("line", { x1: x(draw[t]), x2: x(draw[t]), y1: y - 5, y2: y + 49, style: "stroke: var(--text)", "stroke-width": 2.5 })));
    });
  }
  function draw(still) {
    const goal = means(part.errors[key()]), from = [...shown], began = performance.now();
    seen.replaceChildren(words(20, 20, say("seen"), { class: "small" }));
    const which = part.seen[one.value === "one" ? "one" : "all"];
    which.forEach((list, t) => list.forEach((hex, k) => seen.append(photo(hex, 20 + 52 * k, 32 + 88 * t, 48))));
    if (few.value === "many") seen.append(words(546, 100, `… ${say("more")}`, { class: "small" }));
    if (bare.value === "on") seen.append(svg("g", { "data-sym": "ridge" }, svg("rect", { x: 12, y: 26, width: 530, height: 150, rx: 10, fill: "none", stroke: "var(--good)", "stroke-width": 3 })));
    stage.readout.textContent = say("now", { a: percent(goal[0]), b: percent(goal[1]) });
    cancelAnimationFrame(running);
    if (still || matchMedia("(prefers-reduced-motion: reduce)").matches) { goal.forEach((e, t) => { shown[t] = e; }); return paint(); }
    const frame = (time) => {
      const p = clamp((time - began) / 600, 0, 1), eased = 1 - (1 - p) ** 3;
      goal.forEach((e, t) => { shown[t] = from[t] + eased * (e - from[t]); });
      paint();
      if (p < 1) running = requestAnimationFrame(frame);
    };
    running = requestAnimationFrame(frame);
  }
  let few = { value: "many" }, one = { value: "all" }, bare = { value: "on" };
  few = stage.choice({ name: "images", label: say("images"), options: { many: say("many"), few: say("few") }, value: "many", input: () => draw() });
  one = stage.choice({ name: "classes", label: say("classes"), options: { all: say("all"), one: say("one") }, value: stage.still ? "one" : "all", input: () => draw() });
  bare = stage.choice({ name: "ridge", label: say("ridge"), options: { on: say("switch_on"), off: say("switch_off") }, value: stage.still ? "off" : "on", input: () => draw() });
  stage.cleanups.push(() => cancelAnimationFrame(running));
  draw(true);
  const tour = [["many", "all", "on"], ["few", "all", "on"], ["many", "one", "on"], ["many", "all", "off"], ["many", "one", "off"], ["few", "one", "off"], ["many", "all", "on"]];
  let at = -1;
  return { seconds: 14, play(t) {
    const next = Math.min(tour.length - 1, Math.floor(t * tour.length));
    if (next === at) return;
    at = next;
    [few, one, bare].forEach((choice, k) => { if (choice.value !== tour[at][k]) choice.pick(tour[at][k]); });
  } };
});
