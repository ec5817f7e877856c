// Strokes on black paper, as the digits' pictures are. Asking sends the ink, one byte a pixel.
const PEN = 22, STEP = 10;

export default function ({ parentElement, setTriggerValue }) {
  const paper = parentElement.querySelector(".paper");
  const ink = paper.getContext("2d", { willReadFrequently: true });
  if (paper.dataset.ready) return;
  paper.dataset.ready = "yes";
  let last = null, pen = [140, 140], down = false;

  const place = (event) => {
    const box = paper.getBoundingClientRect();
    return [(event.clientX - box.left) * 280 / box.width, (event.clientY - box.top) * 280 / box.height];
  };
  const stroke = (from, to) => {
    ink.strokeStyle = "#fff"; ink.lineWidth = PEN; ink.lineCap = ink.lineJoin = "round";
    ink.beginPath(); ink.moveTo(...from); ink.lineTo(to[0] + 0.01, to[1]); ink.stroke();
  };
  const clear = () => ink.clearRect(0, 0, 280, 280);
  const ask = () => {
    const pixels = ink.getImageData(0, 0, 280, 280).data;
    const bytes = new Uint8Array(280 * 280);
    for (let k = 0; k < bytes.length; k++) bytes[k] = pixels[4 * k] * pixels[4 * k + 3] / 255;
    let text = "";
    for (let k = 0; k < bytes.length; k += 4096) text += String.fromCharCode(...bytes.subarray(k, k + 4096));
    setTriggerValue("ink", btoa(text));
  };
  paper.addEventListener("pointerdown", (event) => {
    paper.setPointerCapture(event.pointerId);
    last = place(event); stroke(last, last);
  });
  paper.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const now = place(event); stroke(last, now); last = now;
  });
  for (const over of ["pointerup", "pointercancel"]) paper.addEventListener(over, () => { last = null; });
  paper.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key in moves) {
      const next = pen.map((x, k) => Math.min(270, Math.max(10, x + moves[event.key][k])));
      if (down) stroke(pen, next);
      pen = next;
    } else if (event.key === " ") { down = !down; if (down) stroke(pen, pen); }
    else if (event.key === "Enter") ask();
    else if (event.key === "Escape") clear();
    else return;
    event.preventDefault();
  });
  parentElement.querySelector(".clear").addEventListener("click", clear);
  parentElement.querySelector(".ask").addEventListener("click", ask);
}
