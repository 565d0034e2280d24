/** The distance to the exact marginal at each step of a run, beside what exact draws have. */

import * as draw from "./draw.js";

/** `results[i]` is {value, low, middle, high}, or missing while it is being measured. */
export function distances(canvas, results, steps, now) {
  const {pen, width, height} = draw.sheet(canvas), colour = draw.colours();
  const left = 46, right = width - 10, upper = 24, lower = height - 34;
  const known = results.filter(Boolean);
  const values = known.flatMap(({value, low, high}) => [value, low, high]).filter((v) => v > 0);
  const ends = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const middle = (ends[0] + ends[1]) / 2, half = Math.max(0.55, 0.58 * (ends[1] - ends[0]));
  const [bottom, top] = known.length ? [middle - half, middle + half] : [-2, 0];
  const x = (i) => left + (right - left) * i / Math.max(steps, 1);
  const y = (v) => lower - (lower - upper) * (Math.log10(v) - bottom) / (top - bottom);

  pen.fillStyle = colour.muted;
  pen.strokeStyle = colour.line;
  pen.lineWidth = 1;
  pen.textAlign = "left";
  pen.textBaseline = "top";
  pen.fillText("sliced W₂ at unit scale, logarithmic", 4, 2);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let power = Math.floor(bottom); power <= top; power++) {
    for (const digit of [1, 2, 5]) {
      const v = digit * 10 ** power;
      if (Math.log10(v) > top || Math.log10(v) < bottom) continue;
      if (digit > 1 && top - bottom > 2.1) continue;
      pen.beginPath();
      pen.moveTo(left, y(v));
      pen.lineTo(right, y(v));
      pen.stroke();
      pen.fillText(String(Number(v.toPrecision(1))), left - 6, y(v));
    }
  }
  pen.textAlign = "center";
  pen.textBaseline = "top";
  const every = Math.max(1, draw.roundStep(steps, 5));
  for (let i = 0; i <= steps; i += every) pen.fillText(String(i), x(i), lower + 5);
  pen.fillText("step of the run", (left + right) / 2, lower + 19);

  // Runs of neighbours that are known: a band and a line for each.
  const spans = [];
  for (let i = 0; i <= steps; i++) {
    if (!results[i]) continue;
    if (i > 0 && results[i - 1] && spans.length) spans[spans.length - 1].push(i);
    else spans.push([i]);
  }
  pen.fillStyle = colour.muted;
  pen.globalAlpha = 0.28;
  for (const span of spans) {
    pen.beginPath();
    span.forEach((i) => pen.lineTo(x(i), y(results[i].high)));
    span.reverse().forEach((i) => pen.lineTo(x(i), y(results[i].low)));
    pen.fill();
    span.reverse();
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = pen.fillStyle = colour.accent;
  pen.lineWidth = 1.6;
  for (const span of spans) {
    pen.beginPath();
    span.forEach((i) => pen.lineTo(x(i), y(results[i].value)));
    pen.stroke();
  }
  pen.strokeStyle = colour.ink;
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(x(now), upper);
  pen.lineTo(x(now), lower);
  pen.stroke();
  pen.setLineDash([]);
  if (results[now]) {
    pen.beginPath();
    pen.arc(x(now), y(results[now].value), 4, 0, 2 * Math.PI);
    pen.fill();
  }
}
