const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
  .map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));
const LAST = 254; // byte 255: no value

const colour = (level) => {
  const at = (level / LAST) * (VIRIDIS.length - 1), k = Math.min(VIRIDIS.length - 2, Math.floor(at));
  return VIRIDIS[k].map((v, c) => Math.round(v + (at - k) * (VIRIDIS[k + 1][c] - v)));
};
const TABLE = Array.from({ length: 255 }, (_, k) => colour(k)).concat([[128, 128, 128]]);
const number = (x) => (x === 0 ? "0" : Math.abs(x) < 0.001 || Math.abs(x) >= 1e5 ? x.toExponential(2) : x.toPrecision(3));

function pixels(levels, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  levels.forEach((level, k) => image.data.set([...TABLE[level], 255], 4 * k));
  context.putImageData(image, 0, 0);
  return canvas;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const map = parentElement.querySelector(".map"), readout = parentElement.querySelector(".readout");
  const { rows, columns, low, high, names, rowLabels, columnLabels } = data;
  const levels = Uint8Array.from(atob(data.levels), (c) => c.charCodeAt(0));
  const image = pixels(levels, columns, rows);
  const paired = new Set(data.pairs.map(([i, j]) => i * columns + j));
  const margin = { left: 40, top: 36 };
  let cursor = map.cursorCell || data.selected || [0, 0], hovered = null, size = { w: 1, h: 1 };
  cursor = [Math.min(cursor[0], rows - 1), Math.min(cursor[1], columns - 1)];

  const say = (cell) => {
    const [i, j] = cell;
    const level = levels[i * columns + j];
    const chosen = data.selected && !data.pooled && data.selected[0] === i && data.selected[1] === j;
    const exact = chosen ? data.selectedValue : data.values?.[i * columns + j];
    const value = exact != null ? number(exact) : level > LAST ? "missing" : level === LAST ? `≥ ${number(high)}` : `≈ ${+(low + (level / LAST) * (high - low)).toPrecision(2)}`;
    const what = data.pooled ? "least difference" : "difference";
    return `${names[0]} ${rowLabels[i]}, ${names[1]} ${columnLabels[j]}: ${what} ${value}` + (paired.has(i * columns + j) ? ` (${data.mark})` : "");
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1, full = map.clientWidth;
    if (!full) return;
    const room = full - margin.left - 2;
    let cell = room / columns;
    if (rows * cell > 640) cell = Math.max(640 / rows, Math.min(6, cell, 960 / rows));
    cell = Math.min(cell, rows * columns <= 64 ? 76 : 44);
    size = { w: columns * cell, h: rows * cell };
    map.style.height = `${size.h + margin.top + 2}px`;
    map.width = Math.round(full * ratio); map.height = Math.round((size.h + margin.top + 2) * ratio);
    const c = map.getContext("2d"), style = getComputedStyle(map);
    c.scale(ratio, ratio);
    c.imageSmoothingEnabled = false;
    c.drawImage(image, margin.left, margin.top, size.w, size.h);
    c.fillStyle = style.color; c.font = `12px ${style.fontFamily}`;
    c.textAlign = "left"; c.textBaseline = "alphabetic";
    c.fillText(`${names[1]} →`, margin.left, 12);
    c.save(); c.translate(11, margin.top); c.rotate(-Math.PI / 2); c.textAlign = "right";
    c.fillText(`← ${names[0]}`, 0, 0); c.restore();
    const first = (label) => label.split("…")[0];
    const every = (n, gap) => Math.max(1, Math.ceil(gap / cell));
    c.textAlign = "center"; c.textBaseline = "bottom";
    for (let j = 0; j < columns; j += every(columns, 44)) c.fillText(first(columnLabels[j]), margin.left + (j + 0.5) * cell, margin.top - 4);
    c.textAlign = "right"; c.textBaseline = "middle";
    for (let i = 0; i < rows; i += every(rows, 30)) c.fillText(first(rowLabels[i]), margin.left - 4, margin.top + (i + 0.5) * cell);
    if (data.values && cell >= 34) { // room for the numbers themselves
      c.textAlign = "center"; c.textBaseline = "middle";
      data.values.forEach((value, k) => {
        const x = margin.left + ((k % columns) + 0.5) * cell, y = margin.top + (Math.floor(k / columns) + 0.5) * cell;
        const [r, g, b] = TABLE[levels[k]];
        c.fillStyle = 0.3 * r + 0.59 * g + 0.11 * b > 120 ? "#000" : "#fff";
        if (value != null) c.fillText(number(value), x, y);
      });
    }
    const at = ([i, j]) => [margin.left + (j + 0.5) * cell, margin.top + (i + 0.5) * cell];
    const radius = data.values && cell >= 34 ? 0.43 * cell : Math.max(data.pairs.length > 400 ? 1.6 : 2.2, Math.min(9, 0.36 * cell));
    for (const pair of data.marked ? data.pairs : []) { // black and white rings: one of them shows on any colour
      const [x, y] = at(pair);
      for (const [width, paint] of [[3.2, "#000"], [1.5, "#fff"]]) {
        c.beginPath(); c.arc(x, y, radius, 0, 2 * Math.PI);
        c.lineWidth = width; c.strokeStyle = paint; c.stroke();
      }
    }
    const box = (target, dash) => {
      const [x, y] = at(target), half = Math.max(cell / 2, 5) + 1;
      c.setLineDash([]);
      for (const [width, paint] of [[4.5, "#000"], [2, dash ? "#fff" : "#ff5ca8"]]) {
        if (dash && paint === "#fff") c.setLineDash([4, 3]);
        c.lineWidth = width; c.strokeStyle = paint; c.strokeRect(x - half, y - half, 2 * half, 2 * half);
      }
      c.setLineDash([]);
    };
    if (data.selected && !(data.values && cell >= 34)) {
      const [x, y] = at(data.selected);
      for (const [width, paint] of [[2.5, "#000a"], [1, "#fff"]]) {
        c.lineWidth = width; c.strokeStyle = paint; c.beginPath();
        c.moveTo(margin.left, y); c.lineTo(margin.left + size.w, y);
        c.moveTo(x, margin.top); c.lineTo(x, margin.top + size.h); c.stroke();
      }
    }
    if (data.selected) box(data.selected, false);
    if (parentElement.activeElement === map || document.activeElement === map) box(cursor, true);
  };

  const cellAt = (event) => {
    const j = Math.floor(((event.offsetX - margin.left) / size.w) * columns), i = Math.floor(((event.offsetY - margin.top) / size.h) * rows);
    return i >= 0 && i < rows && j >= 0 && j < columns ? [i, j] : null;
  };
  const frame = parentElement.querySelector(".frame"), tip = parentElement.querySelector(".tip");
  const lens = tip.querySelector(".lens"), AROUND = 4, SMALL = 6; // cells on either side; pixels below which a cell needs it
  const hideTip = () => { tip.style.display = "none"; };
  const showTip = (cell, x, y) => { // beside the pointer, or beside the cell that the keys have reached
    tip.querySelector(".tiptext").textContent = say(cell);
    const small = Math.min(size.w / columns, size.h / rows) < SMALL;
    lens.style.display = small ? "block" : "none";
    if (small) {
      const c = lens.getContext("2d"), n = 2 * AROUND + 1, step = lens.width / n;
      c.imageSmoothingEnabled = false;
      c.clearRect(0, 0, lens.width, lens.height);
      c.drawImage(image, cell[1] - AROUND, cell[0] - AROUND, n, n, 0, 0, lens.width, lens.height);
      for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
        const r = cell[0] - AROUND + i, k = cell[1] - AROUND + j;
        if (r < 0 || k < 0 || r >= rows || k >= columns || !paired.has(r * columns + k)) continue;
        for (const [width, paint] of [[3, "#000"], [1.5, "#fff"]]) {
          c.beginPath(); c.arc((j + 0.5) * step, (i + 0.5) * step, 4, 0, 2 * Math.PI); c.lineWidth = width; c.strokeStyle = paint; c.stroke();
        }
      }
      for (const [width, paint] of [[4, "#000"], [2, "#ff5ca8"]]) {
        c.lineWidth = width; c.strokeStyle = paint; c.strokeRect(AROUND * step, AROUND * step, step, step);
      }
    }
    tip.style.display = "block";
    const wide = frame.clientWidth, left = x + 18 + tip.offsetWidth > wide ? x - 14 - tip.offsetWidth : x + 18;
    tip.style.left = `${Math.max(0, Math.min(left, wide - tip.offsetWidth))}px`;
    tip.style.top = `${y + 16}px`;
  };
  const centre = ([i, j]) => [margin.left + ((j + 0.5) * size.w) / columns, margin.top + ((i + 0.5) * size.h) / rows];
  const rest = () => { readout.textContent = data.selected ? `${data.readonly ? "Last" : "Chosen"}: ${say(data.selected)}` : (data.readonly ? "Point at a cell to read it." : "Point at a cell to read it; click to choose it."); };
  const choose = (cell) => {
    if (data.readonly) return; cursor = map.cursorCell = cell; setTriggerValue("cell", { i: cell[0], j: cell[1] }); draw(); };

  map.setAttribute("aria-label", `Map of ${rows} by ${columns} differences, ${names[0]} down, ${names[1]} across. Arrow keys move, Enter chooses a cell.`);
  map.onpointermove = (event) => {
    hovered = cellAt(event);
    if (hovered) { readout.textContent = say(hovered); showTip(hovered, event.offsetX, event.offsetY); } else { hideTip(); rest(); }
  };
  map.onpointerleave = () => { hideTip(); rest(); };
  map.onclick = (event) => { const cell = cellAt(event); if (cell) choose(cell); };
  map.onfocus = draw; map.onblur = () => { hideTip(); draw(); };
  map.onkeydown = (event) => {
    const step = event.shiftKey ? 10 : 1;
    const move = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    if (move) {
      cursor = map.cursorCell = [Math.max(0, Math.min(rows - 1, cursor[0] + move[0])), Math.max(0, Math.min(columns - 1, cursor[1] + move[1]))];
      readout.textContent = say(cursor); draw(); showTip(cursor, ...centre(cursor)); event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") { choose(cursor); event.preventDefault(); }
  };

  parentElement.querySelector(".low").textContent = number(low);
  parentElement.querySelector(".high").textContent = (data.clipped ? "≥ " : "") + number(high);
  parentElement.querySelector(".ramp").getContext("2d").drawImage(pixels(Uint8Array.from({ length: 255 }, (_, k) => k), 255, 1), 0, 0);
  parentElement.querySelector(".mark").style.display = data.marked && data.pairs.length ? "block" : "none";
  parentElement.querySelector(".keytext").textContent = [
    data.marked && data.pairs.length ? `${data.mark} (${data.pairs.length} shown).` : "",
    data.readonly ? "" : "Keyboard: arrows, Shift + arrows, Enter.",
  ].join(" ").trim();
  map.parentElement.classList.add("drawn");
  rest(); draw();
  let width = map.clientWidth;
  const watcher = new ResizeObserver(() => { if (map.clientWidth !== width) { width = map.clientWidth; draw(); } });
  watcher.observe(map.parentElement);
  return () => watcher.disconnect();
}
