export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, names = [stage.data.common.digits, stage.data.common.clothes], wide = 300, tall = 300, top = 34;
  const blocks = svg("g", {}), bars = svg("g", {});
  stage.drawing(640, 470, blocks, bars);
  const block = (x, y, width, height, kind, symbol, label) => (width < 0.5 || height < 0.5 ? [] : [svg("g", { "data-sym": symbol },
    svg("rect", { x, y, width: Math.max(0, width - 2), height: Math.max(0, height - 2), rx: 3, class: kind, opacity: kind === "both" ? 1 : 0.82 }),
    label && width > 60 && height > 24 ? svg("text", { x: x + width / 2, y: y + height / 2 + 5, class: "middle", style: "fill: var(--paper); font-weight: 600" }, label) : "")]);
  function draw() {
    const s = first.value / 100, r = second.value / 100, own = 1 - s, span = wide * (1 + own), scale = 560 / Math.max(560, span), w = wide * scale;
    const left = 340 - (w * (1 + own)) / 2, share = tall * (r / (2 - r)), rest = (tall - share) / 2, one = w * own, mid = w * s;
    blocks.replaceChildren(words(340, 20, say("inputs"), { class: "small middle" }), svg("text", { x: 22, y: 190, class: "small middle", transform: "rotate(-90 22 190)" }, say("rows")),
      ...block(left + one, top, mid, share, "both", "once", say("shared")), ...block(left, top, one, share, "a", "own_A"), ...block(left + one + mid, top, one, share, "b", "own_B"),
      ...block(left, top + share, one + mid, rest, "a", "own_A", names[0]), ...block(left + one, top + share + rest, mid + one, rest, "b", "own_B", names[1]));
    const row = part.table[first.value / 10][second.value / 10], full = 600, k = full / part.before, each = (row.private / 2) * k;
    bars.replaceChildren(words(20, 372, say("before", { n: count(part.before) }), { class: "small" }), svg("rect", { x: 20, y: 380, width: full / 2 - 2, height: 20, rx: 4, class: "a" }), svg("rect", { x: 20 + full / 2, y: 380, width: full / 2, height: 20, rx: 4, class: "b" }),
      words(20, 424, say("after", { n: count(row.total), part: percent((100 * row.total) / part.before, 0) }), { style: "font-weight: 600" }),
      ...block(20, 432, each, 24, "a", "own_A"), ...block(20 + each, 432, row.shared * k, 24, "both", "once", say("shared")), ...block(20 + each + row.shared * k, 432, each, 24, "b", "own_B"));
    stage.readout.textContent = say("after", { n: row.total.toLocaleString("en"), part: percent((100 * row.total) / part.before, 1) });
  }
  const whole = (x) => `${x} %`, value = stage.still ? 50 : 0;
  const first = stage.slider({ name: "in", label: say("first"), low: 0, high: 100, step: 10, value, text: whole, input: () => draw() });
  const second = stage.slider({ name: "out", label: say("second"), low: 0, high: 100, step: 10, value, text: whole, input: () => draw() });
  draw();
  return { seconds: 5, play(t) { first.value = second.value = 10 * Math.round(10 * t); draw(); } };
});
