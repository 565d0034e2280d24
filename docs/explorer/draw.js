/** Pictures on a canvas. Every size is in CSS pixels; colours are those of the style sheet. */

import * as mixture from "./mixture.js";

/** The style sheet's colours as they are now, light or dark. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return Object.fromEntries(
    ["paper", "panel", "ink", "muted", "line", "accent", "second"].map((name) => [name, of(name)]));
}

/** A canvas of its element's size on this screen, cleared, and how large that is. */
export function sheet(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px " + getComputedStyle(document.body).fontFamily;
  return {pen, width, height};
}

/** Plane coordinates ↔ pixels of a square window of half-width `reach` about the origin. */
export function frame(size, reach) {
  const unit = size / (2 * reach);
  return {
    x: (v) => size / 2 + v * unit, y: (v) => size / 2 - v * unit,
    backX: (v) => (v - size / 2) / unit, backY: (v) => (size / 2 - v) / unit, unit,
  };
}

const CELLS = 140;
const tile = document.createElement("canvas");

/** The square root of the density as a shade, of its highest value in sight. */
export function density(pen, size, reach, level, scale, colour) {  // colour: #rrggbb
  const here = {}, logs = new Float64Array(CELLS * CELLS);
  let top = -Infinity;
  for (let row = 0; row < CELLS; row++) {
    for (let column = 0; column < CELLS; column++) {
      const x = ((column + 0.5) / CELLS * 2 - 1) * reach / scale;
      const y = (1 - (row + 0.5) / CELLS * 2) * reach / scale;
      const log = mixture.evaluate(level, x, y, here).logDensity;
      logs[row * CELLS + column] = log;
      top = Math.max(top, log);
    }
  }
  tile.width = tile.height = CELLS;
  const brush = tile.getContext("2d");
  const picture = brush.createImageData(CELLS, CELLS);
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  for (let i = 0; i < logs.length; i++) {
    picture.data.set([red, green, blue, 165 * Math.exp(0.5 * (logs[i] - top))], 4 * i);
  }
  brush.putImageData(picture, 0, 0);
  pen.imageSmoothingEnabled = true;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(tile, 0, 0, size, size);
}

/** An arrow from one pixel to another. */
export function arrow(pen, x0, y0, x1, y1, head = 4) {
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length < 0.5) return;
  const ux = (x1 - x0) / length, uy = (y1 - y0) / length;
  const tip = Math.min(head, 0.6 * length);
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.moveTo(x1 - tip * (ux + 0.6 * uy), y1 - tip * (uy - 0.6 * ux));
  pen.lineTo(x1, y1);
  pen.lineTo(x1 - tip * (ux - 0.6 * uy), y1 - tip * (uy + 0.6 * ux));
  pen.stroke();
}

/** The score at a lattice of places; an arrow's length grows with |s| × the level's width. */
export function scores(pen, size, reach, level, scale, spread, colour) {
  const count = size < 420 ? 13 : 19, cell = size / count, here = {};
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.globalAlpha = 0.75;
  for (let row = 0; row < count; row++) {
    for (let column = 0; column < count; column++) {
      const px = (column + 0.5) * cell, py = (row + 0.5) * cell;
      const unit = 2 * reach / size;
      const {sx, sy} = mixture.evaluate(
        level, (px - size / 2) * unit / scale, (size / 2 - py) * unit / scale, here);
      const strength = Math.hypot(sx, sy);
      if (!(strength > 0)) continue;
      const length = 0.42 * cell * Math.tanh(0.6 * strength * spread) / strength;
      arrow(pen, px - sx * length, py + sy * length, px + sx * length, py - sy * length, 3);
    }
  }
  pen.globalAlpha = 1;
}

/** The ways of the first particles up to state `last`. */
export function trails(pen, at, states, last, count, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.globalAlpha = 0.5;
  for (let i = 0; i < Math.min(2 * count, states[0].length); i += 2) {
    pen.beginPath();
    pen.moveTo(at.x(states[0][i]), at.y(states[0][i + 1]));
    for (let k = 1; k <= last; k++) pen.lineTo(at.x(states[k][i]), at.y(states[k][i + 1]));
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

export function dots(pen, at, states, colour, ring, radius = 2.1) {
  pen.fillStyle = colour;
  pen.strokeStyle = ring;
  pen.lineWidth = 0.6;
  for (let i = 0; i < states.length; i += 2) {
    pen.beginPath();
    pen.arc(at.x(states[i]), at.y(states[i + 1]), radius, 0, 2 * Math.PI);
    pen.fill();
    pen.stroke();
  }
}

export function rings(pen, at, places, radius, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  for (const [x, y] of places) {
    pen.beginPath();
    pen.arc(at.x(x), at.y(y), radius, 0, 2 * Math.PI);
    pen.stroke();
  }
}

/** A round step of 1, 2 or 5 × 10ⁿ that goes about `count` times into `range`. */
export function roundStep(range, count) {
  const raw = range / count, power = 10 ** Math.floor(Math.log10(raw)), lead = raw / power;
  return power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
}

/** Numbers along the left and the lower edge of the plane; at the left a tick would read as a minus. */
export function rulers(pen, size, at, reach, colour, paper) {
  const step = roundStep(2 * reach, 6);
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 1;
  const label = (text, x, y) => {
    pen.lineWidth = 3;
    pen.strokeStyle = paper;
    pen.strokeText(text, x, y);
    pen.fillText(text, x, y);
    pen.lineWidth = 1;
    pen.strokeStyle = colour;
  };
  for (let k = Math.ceil(-0.93 * reach / step); k * step <= 0.93 * reach; k++) {
    const text = String(Number((k * step).toPrecision(6))).replace("-", "−");
    pen.beginPath();
    pen.moveTo(at.x(k * step), size);
    pen.lineTo(at.x(k * step), size - 5);
    pen.stroke();
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    label(text, at.x(k * step), size - 7);
    if (at.y(k * step) > size - 24) continue;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    label(text, 6, at.y(k * step));
  }
}
