// Plots of the last minutes: one canvas each, drawn anew once a second.

import { colour, element } from "./shown.js";

const HEIGHT = 128, LEFT = 58, RIGHT = 6, TOP = 10, BOTTOM = 18;

function ceiling(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((bound) => bound >= most);
}

export class Plot {
  // series: [name, place of the figure in a point]; shown: a number as text.
  constructor(title, series, shown) {
    Object.assign(this, { title, series, shown, points: [] });
    this.figure = element("figure");
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.legends = series.map((_, i) => element("span", "", i ? "second" : "first"));
    const caption = element("figcaption", title);
    caption.append(...this.legends);
    this.figure.append(caption, this.canvas);
    this.canvas.addEventListener("pointermove", (event) => { this.pointed = event.offsetX; this.draw(); });
    this.canvas.addEventListener("pointerleave", () => { this.pointed = undefined; this.draw(); });
  }

  draw(points = this.points, span = this.span ?? 60) {
    Object.assign(this, { points, span });
    const width = this.canvas.clientWidth, scale = devicePixelRatio || 1;
    if (!width) return;
    this.canvas.width = width * scale;
    this.canvas.height = HEIGHT * scale;
    this.canvas.style.height = `${HEIGHT}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "11px system-ui, sans-serif";
    const now = points.length ? points.at(-1)[0] : 0;
    const high = ceiling(Math.max(0, ...points.flatMap((p) => this.series.map(([, i]) => (Number.isFinite(p[i]) ? p[i] : 0)))));
    const x = (time) => LEFT + (1 - (now - time) / span) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / high) * (HEIGHT - TOP - BOTTOM);
    pen.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      pen.strokeStyle = colour("line");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(LEFT, Math.round(y(part * high)) + 0.5);
      pen.lineTo(width - RIGHT, Math.round(y(part * high)) + 0.5);
      pen.stroke();
      pen.fillStyle = colour("soft");
      pen.textAlign = "right";
      pen.fillText(part ? this.shown(part * high) : "0", LEFT - 7, y(part * high));
    }
    const step = span <= 60 ? 15 : 60 * Math.ceil((span / 60) * 60 / (width - LEFT - RIGHT));
    for (let ago = 0; ago <= span; ago += step) {
      pen.textAlign = ago === 0 ? "right" : "center";
      pen.fillText(ago ? `-${ago < 60 ? `${ago} s` : `${ago / 60} min`}` : "now", x(now - ago), HEIGHT - 6);
    }
    this.series.forEach(([, place], number) => this.line(pen, points, place, x, y, colour(number ? "second" : "first"), !number && this.series.length === 1));
    let chosen = points.at(-1);
    if (this.pointed !== undefined && points.length) {
      chosen = points.reduce((best, p) => (Math.abs(x(p[0]) - this.pointed) < Math.abs(x(best[0]) - this.pointed) ? p : best));
      pen.strokeStyle = colour("soft");
      pen.beginPath();
      pen.moveTo(x(chosen[0]), TOP);
      pen.lineTo(x(chosen[0]), HEIGHT - BOTTOM);
      pen.stroke();
    }
    this.series.forEach(([name, place], i) => {
      this.legends[i].textContent = `${name} ${chosen ? this.shown(chosen[place]) : "–"}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}: ${this.legends.map((legend) => legend.textContent).join(", ")}`);
  }

  // A gap where there is no figure; a dot where a figure stands alone.
  line(pen, points, place, x, y, stroke, filled) {
    pen.strokeStyle = pen.fillStyle = stroke;
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    let run = [];
    const end = () => {
      if (run.length === 1) pen.fillRect(run[0][0] - 1, run[0][1] - 1, 2, 2);
      if (run.length > 1) {
        pen.beginPath();
        run.forEach(([px, py]) => pen.lineTo(px, py));
        pen.stroke();
        if (filled) {
          pen.lineTo(run.at(-1)[0], HEIGHT - BOTTOM);
          pen.lineTo(run[0][0], HEIGHT - BOTTOM);
          pen.globalAlpha = 0.12;
          pen.fill();
          pen.globalAlpha = 1;
        }
      }
      run = [];
    };
    for (const point of points) {
      if (Number.isFinite(point[place])) run.push([x(point[0]), y(point[place])]);
      else end();
    }
    end();
  }
}
