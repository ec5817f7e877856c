export default (component) => lesson(component, (stage) => {
  const list = el("ol", { class: "nine" }, ...stage.part.learnt.map((text, k) => el("li", {}, el("button", { type: "button", onclick: () => stage.send("go", String(k + 1)) }, el("b", {}, k + 1), text))));
  stage.picture.append(list);
  return {};
});
