// Totals of the sliders' choice. Python says them first; while a slider moves, the panel does.
export default function ({ data, parentElement }) {
  const list = parentElement.querySelector(".mtz-totals"), said = data.totals;
  if (list.childElementCount !== said.length) {
    list.replaceChildren(...said.map(({ name }) => {
      const pair = document.createElement("div");
      pair.dataset.total = name;
      pair.append(document.createElement("dt"), document.createElement("dd"));
      return pair;
    }));
  }
  const pairs = [...list.children];
  said.forEach(({ label, value }, k) => { pairs[k].children[0].textContent = label; pairs[k].children[1].textContent = value; });
  const follow = ({ detail }) => pairs.forEach((pair) => { pair.children[1].textContent = detail[pair.dataset.total]; });
  document.addEventListener("mtz-totals", follow);
  return () => document.removeEventListener("mtz-totals", follow);
}
