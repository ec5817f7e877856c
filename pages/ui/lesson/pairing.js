export default (component) => lesson(component, (stage) => {
  const { part, say } = stage, costs = part.costs, all = costs.flat(), low = Math.min(...all), high = Math.max(...all);
  const sum = (pairs) => pairs.reduce((total, [i, j]) => total + costs[i][j], 0), greedy = sum(part.greedy[6]), best = sum(part.optimal[6]);
  const table = el("table", { "aria-label": say("picture") });
  const head = (axis, hex, label) => el("th", { scope: axis }, el("img", { src: bitmap(hex), alt: label }));
  const names = [stage.data.common.digits, stage.data.common.clothes];
  table.append(el("thead", {}, el("tr", {}, el("td", { style: "background: none" }), ...part.likes[1].map((hex, j) => head("col", hex, `${names[1]} ${part.columns[j]}`)))));
  const cells = costs.map((row) => row.map((cost) => el("td", { "data-sym": "d" }, cost.toFixed(3))));
  table.append(el("tbody", {}, ...cells.map((row, i) => el("tr", {}, head("row", part.likes[0][i], `${names[0]} ${part.rows[i]}`), ...row))));
  stage.picture.append(table);
  let own = (stage.address.get("own") || "").split(",").map((text) => text.split("-").map(Number)).filter(([i, j], k, list) => i in costs && j in costs && list.findIndex((other) => other[0] === i || other[1] === j) === k);
  let before = [];
  const shade = (cost) => { const t = (cost - low) / (high - low); return `color-mix(in srgb, var(--heat) ${Math.round(8 + 72 * t)}%, var(--paper))`; };
  function draw() {
    const mine = way.value === "own", pairs = mine ? own : part[way.value][slider.value];
    cells.forEach((row, i) => row.forEach((cell, j) => {
      const is = pairs.some(([r, c]) => r === i && c === j), was = before.some(([r, c]) => r === i && c === j);
      cell.className = is ? (was ? "pair" : "pair moved") : !mine && way.value === "greedy" && pairs.some(([r, c]) => r === i || c === j) ? "gone" : !mine && way.value === "optimal" && i >= slider.value ? "gone" : "";
      cell.style.background = shade(costs[i][j]);
      const text = costs[i][j].toFixed(3);
      if (mine) {
        const button = el("button", { type: "button", "aria-pressed": String(is), "aria-label": say("cell", { i: i + 1, j: j + 1, cost: text }), onclick: () => toggle(i, j), onkeydown: (event) => walk(event, i, j) }, text);
        const focused = cell.contains(cell.getRootNode().activeElement);
        cell.replaceChildren(button);
        if (focused) button.focus();
      } else cell.textContent = text;
    }));
    before = pairs;
    const total = sum(pairs), values = { n: pairs.length, total: total.toFixed(3) };
    stage.readout.textContent = say(pairs.length === 6 && total < best + 1e-9 ? "reached" : pairs.length === 6 && total < greedy - 1e-9 ? "beaten" : "total", values);
  }
  function toggle(i, j) {
    own = own.some(([r, c]) => r === i && c === j) ? own.filter(([r, c]) => r !== i || c !== j) : [...own.filter(([r, c]) => r !== i && c !== j), [i, j]];
    stage.address.set("own", own.map((pair) => pair.join("-")).join(","));
    draw();
  }
  function walk(event, i, j) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    cells[clamp(i + by[0], 0, 5)][clamp(j + by[1], 0, 5)].firstChild.focus?.();
    event.preventDefault(); event.stopPropagation();
  }
  let slider = { value: 6 };
  const way = stage.choice({ name: "pairing", label: say("way"), options: { greedy: say("greedy"), optimal: say("optimal"), own: say("own") }, value: stage.still ? "optimal" : "greedy", input: () => { before = []; draw(); } });
  slider = stage.slider({ name: "taken", label: say("taken"), low: 0, high: 6, step: 1, value: 6, input: draw });
  draw();
  return { seconds: 9, play(t) {
    const turn = t < 0.5 ? "greedy" : "optimal", step = Math.min(6, Math.floor((t < 0.5 ? t : t - 0.5) * 2 * 7));
    if (way.value === turn && slider.value === step) return;
    if (way.value !== turn) way.pick(turn);
    slider.change(t >= 1 ? 6 : step);
  } };
});
