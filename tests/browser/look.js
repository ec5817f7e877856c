// Measures what is on the page: text that is cut off, text on text, what scrolls sideways. Returns lists of words.
() => {
  const clean = (text) => text.replace(/\s+/g, " ").trim().slice(0, 40);
  const inside = (node) => node.assignedSlot || node.parentElement || (node.getRootNode().host ?? null);
  const quiet = "[data-testid=stSidebar], [data-testid=stToolbar], [data-testid=stHeader], .modebar, .katex, .katex-mathml";
  const texts = [], found = { clipped: [], overlap: [], sideways: [] };

  function seen(element) { // fully hidden parts, also by an ancestor, are no part of the look
    for (let node = element; node; node = inside(node)) {
      const style = getComputedStyle(node);
      if (style.display === "none" || style.visibility === "hidden" || +style.opacity === 0) return false;
      if (node.tagName === "DETAILS" && !node.open && !element.closest?.("summary")) return false;
      if (node.matches?.(quiet)) return false;
      if (style.position === "absolute" && node.clientWidth <= 1 && node.clientHeight <= 1 && node.namespaceURI.endsWith("xhtml")) return false;
    }
    return true;
  }

  function cut(element, box) { // by how many pixels an ancestor without a scroll bar hides the text
    for (let node = element; node && node !== document.body; node = inside(node)) {
      if (node.namespaceURI.endsWith("svg") && node.tagName !== "svg") continue;
      const style = getComputedStyle(node), outer = node.getBoundingClientRect();
      if (style.display === "inline" || style.display === "contents") continue;
      const hides = (overflow) => overflow === "hidden" || overflow === "clip";
      if (/auto|scroll/.test(style.overflowX) || /auto|scroll/.test(style.overflowY)) return 0;
      if (hides(style.overflowX) && Math.max(outer.left - box.left, box.right - outer.right) > 2) return Math.round(Math.max(outer.left - box.left, box.right - outer.right));
      if (hides(style.overflowY) && Math.max(outer.top - box.top, box.bottom - outer.bottom) > 4) return Math.round(Math.max(outer.top - box.top, box.bottom - outer.bottom));
    }
    return 0;
  }

  function shown(element, box) { // the part of a box that no scrolled container keeps out of sight
    let [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom];
    for (let node = element; node && node !== document.body; node = inside(node)) {
      if (node.matches?.("[data-testid=stMain]") || node.namespaceURI.endsWith("svg")) continue;
      const style = getComputedStyle(node);
      if (/visible|clip/.test(style.overflowX) && /visible|clip/.test(style.overflowY)) continue;
      const outer = node.getBoundingClientRect();
      [left, top, right, bottom] = [Math.max(left, outer.left), Math.max(top, outer.top), Math.min(right, outer.right), Math.min(bottom, outer.bottom)];
    }
    return right - left > 2 && bottom - top > 4 ? { left, top, right, bottom } : null;
  }

  function walk(root) {
    for (const node of root.querySelectorAll("*")) {
      if (node.shadowRoot) walk(node.shadowRoot);
      if (["SCRIPT", "STYLE", "OPTION", "TEXTAREA", "TITLE", "DESC"].includes(node.tagName)) continue;
      const own = [...node.childNodes].filter((child) => child.nodeType === 3 && child.textContent.trim());
      if (own.length && seen(node)) {
        const range = document.createRange();
        for (const child of own) {
          range.selectNodeContents(child);
          const box = range.getBoundingClientRect();
          if (box.width < 2 || box.height < 2) continue;
          const by = cut(node, box);
          if (by) found.clipped.push(`“${clean(child.textContent)}” by ${by} px`);
          if (!getComputedStyle(node).writingMode.startsWith("vertical")) for (const each of range.getClientRects()) {
            const line = shown(node, each);
            if (line) texts.push({ line, node, text: clean(child.textContent) });
          }
        }
      }
      const style = getComputedStyle(node);
      if (node.matches(".dvn-scroller") && node.scrollWidth > node.clientWidth + 2) found.sideways.push(`table by ${node.scrollWidth - node.clientWidth} px`);
      else if (/auto|scroll/.test(style.overflowX) && node.scrollWidth > node.clientWidth + 2 && node.clientWidth > 40 && seen(node)) found.sideways.push(`${node.tagName.toLowerCase()}.${String(node.className.baseVal ?? node.className).slice(0, 30)} by ${node.scrollWidth - node.clientWidth} px`);
    }
  }
  walk(document);

  texts.sort((a, b) => a.line.top - b.line.top);
  for (let i = 0; i < texts.length; i++) {
    const a = texts[i].line;
    for (let j = i + 1; j < texts.length && texts[j].line.top < a.bottom - 4; j++) {
      const b = texts[j].line, wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (texts[i].node !== texts[j].node && wide > 3 && high > 5 && !texts[i].node.contains(texts[j].node) && !texts[j].node.contains(texts[i].node)) found.overlap.push(`“${texts[i].text}” on “${texts[j].text}”`);
    }
  }
  const main = document.querySelector("[data-testid=stMain]");
  if (main && main.scrollWidth > main.clientWidth) found.sideways.push(`the page by ${main.scrollWidth - main.clientWidth} px`);
  return found;
}
