// Numbers and elements as they are shown. All text goes through textContent.

const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];

export function number(x) {
  if (x === null || !Number.isFinite(x)) return "–";
  const [size, prefix] = PREFIXES.find(([least]) => Math.abs(x) >= least) ?? [1, ""];
  const scaled = x / size;
  return (Number.isInteger(scaled) || Math.abs(scaled) >= 100 ? scaled.toFixed(0) : scaled.toFixed(Math.abs(scaled) >= 10 ? 1 : 2)) + prefix;
}

export function seconds(x) {
  if (x === null || !Number.isFinite(x)) return "–";
  for (const [size, unit] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]) {
    if (x >= size || unit === "µs") return `${(x / size).toFixed(x / size >= 100 ? 0 : x / size >= 10 ? 1 : 2)} ${unit}`;
  }
}

export function duration(x) {
  if (x < 60) return `${Math.floor(x)} s`;
  if (x < 3600) return `${Math.floor(x / 60)} min`;
  return x < 172800 ? `${Math.floor(x / 3600)} h` : `${Math.floor(x / 86400)} d`;
}

export function size(x) {
  for (const [least, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (x >= least) return `${(x / least).toFixed(x / least >= 100 ? 0 : 1)} ${unit}`;
  }
  return `${x} B`;
}

export const byId = (id) => document.getElementById(id);

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A dl's pairs; in a div each where `boxed`.
export function pairs(list, entries, boxed) {
  list.replaceChildren(...entries.flatMap(([term, value, more]) => {
    const dd = element("dd", value);
    if (more) dd.append(" ", element("small", more));
    const pair = [element("dt", term), dd];
    if (!boxed) return pair;
    const box = document.createElement("div");
    box.append(...pair);
    return [box];
  }));
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}
