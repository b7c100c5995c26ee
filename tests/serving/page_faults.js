// What is wrong with a page for people who do not see it well, or do not see it: a list of sentences.
() => {
  const faults = [];
  const visible = (e) => e.checkVisibility && e.checkVisibility({ visibilityProperty: true }) && !e.closest(".sr");
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels || !field.labels.length || !field.labels[0].textContent.trim()) faults.push(`no label: ${field.name}`);
  }
  for (const each of document.querySelectorAll("button, a")) {
    const name = (each.getAttribute("aria-label") || each.textContent).trim();
    if (!name) faults.push(`no name: ${each.outerHTML.slice(0, 60)}`);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) faults.push(`heading ${own} after ${level}`);
    level = own;
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  for (const mark of ["header", "main"]) if (document.querySelectorAll(mark).length !== 1) faults.push(`not one ${mark}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
  for (const each of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
    for (const name of ["aria-describedby", "aria-labelledby"])
      for (const id of (each.getAttribute(name) || "").split(" ").filter(Boolean)) if (!ids.includes(id)) faults.push(`no such id: ${id}`);
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption) faults.push("no caption");
    for (const th of table.querySelectorAll("th")) if (!th.scope) faults.push("th without scope");
  }
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");

  const channel = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const found = numbers(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !visible(e) || e.closest("script, option, .skip")) continue;
    const fore = numbers(e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color);
    const [a, b] = [light(fore), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) seen.add(`contrast ${ratio.toFixed(2)}: ${e.className || e.tagName}`);
  }
  return [...faults, ...seen];
}
