// A session's states: as they are now, a square a number, and how they came there, a column a look.

import { bytes, colour, element } from "./shown.js";

const LOOKS = 160, STRIPES = 64;

function channels(css) {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data];
}

class Palette {
  constructor() {
    [this.low, this.zero, this.high] = ["low", "zero", "high"].map((name) => channels(colour(name)));
  }

  // -1 to 1.
  of(x) {
    const end = x < 0 ? this.low : this.high, part = Math.min(Math.abs(x), 1);
    return this.zero.map((channel, i) => channel + (end[i] - channel) * part);
  }
}

function sized(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  return pen;
}

class Heat {
  constructor(state) {
    this.looks = [];
    this.most = 0;
    this.figure = element("figure");
    this.caption = element("figcaption", state.name);
    this.text = element("span", "", "plain");
    this.least = element("span", "", "plain");
    this.largest = element("span", "", "plain");
    this.caption.append(this.text, this.least, element("i", "", "scale"), this.largest);
    this.now = document.createElement("canvas");
    this.past = document.createElement("canvas");
    for (const canvas of [this.now, this.past]) canvas.setAttribute("role", "img");
    this.now.addEventListener("pointermove", (event) => this.point(event.offsetX, event.offsetY));
    this.now.addEventListener("pointerleave", () => this.describe());
    this.figure.append(this.caption, element("h3", "now", "soft"), this.now, element("h3", "as it came there, a column a look, the newest on the right", "soft"), this.past);
  }

  take(state) {
    this.state = state;
    this.numbers = new Float32Array(bytes(state.data));
    this.looks.push(this.numbers);
    if (this.looks.length > LOOKS) this.looks.shift();
    this.most = this.looks.reduce((most, numbers) => numbers.reduce((m, x) => (Math.abs(x) > m ? Math.abs(x) : m), most), 0);
    this.draw();
  }

  draw() {
    const width = this.figure.clientWidth;
    if (!width || !this.numbers) return;
    const palette = new Palette(), most = this.most || 1;
    this.drawNow(width, palette, most);
    this.drawPast(width, palette, most);
    this.least.textContent = (-most).toPrecision(2);
    this.largest.textContent = most.toPrecision(2);
    this.describe();
  }

  // Rows that are wider than the page go on in the next line.
  drawNow(width, palette, most) {
    const { rows, columns } = this.state;
    const least = columns * rows > 600 ? 8 : 14;
    this.perLine = Math.min(columns, Math.floor(width / least));
    this.cell = Math.min(26, width / this.perLine);
    this.lines = Math.ceil(columns / this.perLine);
    this.gap = 6;
    const height = rows * this.lines * this.cell + (rows - 1) * this.gap;
    const pen = sized(this.now, width, height);
    this.numbers.forEach((x, i) => {
      const [left, top] = this.place(i);
      pen.fillStyle = `rgb(${palette.of(x / most).map(Math.round).slice(0, 3).join(" ")})`;
      pen.fillRect(left, top, this.cell - 1, this.cell - 1);
    });
  }

  place(i) {
    const { columns } = this.state, row = Math.floor(i / columns), column = i % columns;
    const line = row * this.lines + Math.floor(column / this.perLine);
    return [(column % this.perLine) * this.cell, line * this.cell + row * this.gap];
  }

  drawPast(width, palette, most) {
    const every = Math.ceil(this.numbers.length / STRIPES), stripes = Math.ceil(this.numbers.length / every);
    const height = Math.max(48, Math.min(160, stripes * 3)), shown = Math.max(this.looks.length, 20);
    const image = new ImageData(shown, stripes);
    this.looks.forEach((numbers, look) => {
      const column = shown - this.looks.length + look;
      for (let stripe = 0; stripe < stripes; stripe += 1) {
        image.data.set(palette.of(numbers[stripe * every] / most), 4 * (stripe * shown + column));
      }
    });
    const small = new OffscreenCanvas(shown, stripes);
    small.getContext("2d").putImageData(image, 0, 0);
    const pen = sized(this.past, width, height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, width, height);
  }

  describe() {
    const { shape, every } = this.state;
    const said = `[${shape.join(", ")}]${every > 1 ? `, one of ${every} is shown` : ""}`;
    this.text.textContent = said;
    const labels = `${this.state.name} ${said}, from ${Math.min(...this.numbers).toPrecision(3)} to ${Math.max(...this.numbers).toPrecision(3)}`;
    this.now.setAttribute("aria-label", `${labels}, now`);
    this.past.setAttribute("aria-label", `${labels}, the last ${this.looks.length} looks`);
  }

  point(left, top) {
    const found = this.numbers.findIndex((_, i) => {
      const [x, y] = this.place(i);
      return left >= x && left < x + this.cell && top >= y && top < y + this.cell;
    });
    if (found < 0) return;
    const { columns, every } = this.state;
    this.text.textContent = `[${Math.floor(found / columns)}, ${(found % columns) * (every > 1 ? every : 1)}] = ${this.numbers[found].toPrecision(4)}`;
  }
}

export class Heats {
  constructor(place) {
    this.place = place;
    this.clear();
  }

  clear() {
    this.heats = [];
    this.place.replaceChildren();
  }

  take(states) {
    if (states.length !== this.heats.length) {
      this.heats = states.map((state) => new Heat(state));
      this.place.replaceChildren(...this.heats.map((heat) => heat.figure));
    }
    states.forEach((state, i) => this.heats[i].take(state));
  }

  draw() {
    this.heats.forEach((heat) => heat.draw());
  }
}
