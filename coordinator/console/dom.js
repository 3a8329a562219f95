// Making elements. Text is always set as text, never as markup: names and errors come from outside.

/** h("td", { class: "wide", onclick: f }, "text", child, [more children]) */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Puts `children` into `place`, unless they look the same as what is there. The row that has the focus keeps it. */
export function show(place, ...children) {
  const next = h("div", {}, ...children);
  if (place.innerHTML === next.innerHTML) return;
  const key = place.contains(document.activeElement) && document.activeElement.closest("[data-key]")?.dataset.key;
  place.replaceChildren(...next.childNodes);
  if (key) place.querySelector(`[data-key="${CSS.escape(key)}"] a`)?.focus({ preventScroll: true });
}

/** A table; `rows` are arrays of cells, with an `href` where a row leads somewhere. */
export function table(heads, rows, nothing) {
  if (!rows.length) return h("p", { class: "nothing" }, nothing);
  const row = ({ cells, href, key }) => h("tr", { "data-href": href, "data-key": key },
    cells.map((cell, place) => h("td", { "data-head": heads[place] },
      place === 0 && href ? h("a", { href }, cell) : cell)));
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map(row))));
}

/** Asks something in a dialog: answers the form's fields, or null when it was put away. */
export function ask(title, ...content) {
  return new Promise((answer) => {
    const form = h("form", { method: "dialog" }, h("h2", {}, title), content);
    const dialog = h("dialog", {
      onclose: () => {
        dialog.remove();
        answer(dialog.returnValue === "yes" ? Object.fromEntries(new FormData(form)) : null);
      },
    }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}
