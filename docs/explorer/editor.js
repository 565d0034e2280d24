/** The data: points that the reader places, each the middle of a Gaussian of one common width. */

import * as draw from "./draw.js";
import * as mixture from "./mixture.js";

export const REACH = 2.4;
const MOST = 12;

/**
 * Makes the points of `pad` movable by pointer and by keyboard. `points()` are the present ones,
 * `changed(points, moving)` is told of new ones, `say(text)` of what was done or cannot be. Returns
 * {show, addSomewhere, remove}.
 */
export function attach(pad, points, changed, say) {
  const canvas = pad.querySelector("canvas");
  let handles = [], chosen = 0, last = {}, free = false;
  const clamp = (v) => Math.max(-2.2, Math.min(2.2, Math.round(v * 100) / 100)) + 0;  // no −0
  const place = (event) => {
    const box = pad.getBoundingClientRect(), at = draw.frame(box.width, REACH);
    return [clamp(at.backX(event.clientX - box.left)), clamp(at.backY(event.clientY - box.top))];
  };
  const replace = (i, point) => changed(points().map((old, k) => k === i ? point : old), true);

  function add(point) {
    if (points().length >= MOST) {
      say(`${MOST} points are the most that can be.`);
      return false;
    }
    changed([...points(), point], false);
    chosen = points().length - 1;
    handles[chosen].focus();
    say(`Point ${chosen + 1} added at ${point.join(", ")}.`);
    return true;
  }

  function remove(i = chosen) {
    if (points().length === 1) {
      say("The last point stays: a density needs one.");
      return;
    }
    changed(points().filter((_, k) => k !== i), false);
    chosen = Math.min(i, points().length - 1);
    handles[chosen].focus();
    say(`Point removed, ${points().length} left.`);
  }

  /** A point that comes by keyboard, where it is farthest from the others: of 60 on a spiral. */
  function addSomewhere() {
    const room = ([x, y]) => Math.min(...points().map(([u, v]) => Math.hypot(x - u, y - v)));
    const places = Array.from({length: 60}, (_, k) => {
      const angle = 2.4 * k, radius = 1.8 * Math.sqrt((k + 1) / 60);
      return [clamp(radius * Math.cos(angle)), clamp(radius * Math.sin(angle))];
    });
    add(places.reduce((best, other) => room(other) > room(best) ? other : best));
  }

  function pressed(i, event) {
    const step = event.shiftKey ? 0.5 : 0.1, [x, y] = points()[i];
    const moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step],
      ArrowDown: [0, -step]};
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      replace(i, [clamp(x + dx), clamp(y + dy)]);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      remove(i);
    } else {
      return;
    }
    event.preventDefault();
  }

  pad.addEventListener("pointerdown", (event) => {
    const handle = event.target.closest("button");
    free = !handle && event.pointerType !== "mouse";
    // A finger on a free place may be about to scroll; its tap, a click, adds a point.
    if (free) return;
    if (!handle) {
      event.preventDefault();
      if (!add(place(event))) return;
    }
    const i = handle ? handles.indexOf(handle) : chosen;
    // Twice upon one point takes it away; the pointer is captured, so there is no dblclick on it.
    if (handle && last.i === i && event.timeStamp - last.time < 400) {
      event.preventDefault();
      last = {};
      remove(i);
      return;
    }
    last = handle ? {i, time: event.timeStamp} : {};
    chosen = i;
    pad.setPointerCapture(event.pointerId);
    const move = (moved) => {
      if (moved.pointerId === event.pointerId && i < points().length) replace(i, place(moved));
    };
    const end = () => {
      pad.removeEventListener("pointermove", move);
      pad.removeEventListener("pointerup", end);
      pad.removeEventListener("pointercancel", end);
    };
    pad.addEventListener("pointermove", move);
    pad.addEventListener("pointerup", end);
    pad.addEventListener("pointercancel", end);
  });
  pad.addEventListener("click", (event) => {
    if (free) add(place(event));
    free = false;
  });

  function show(model) {
    const {pen, width} = draw.sheet(canvas), colour = draw.colours();
    const at = draw.frame(width, REACH);
    draw.density(pen, width, REACH, mixture.at(model, 1, 0), 1, colour.muted);
    draw.rulers(pen, width, at, REACH, colour.muted, colour.panel);
    while (handles.length > points().length) handles.pop().remove();
    while (handles.length < points().length) {
      const handle = document.createElement("button");
      handle.type = "button";
      handle.className = "point";
      handle.addEventListener("keydown", (event) => pressed(handles.indexOf(handle), event));
      handle.addEventListener("focus", () => { chosen = handles.indexOf(handle); });
      pad.append(handle);
      handles.push(handle);
    }
    points().forEach(([x, y], i) => {
      handles[i].style.left = `${100 * at.x(x) / width}%`;
      handles[i].style.top = `${100 * at.y(y) / width}%`;
      handles[i].textContent = String(i + 1);
      handles[i].setAttribute("aria-label",
        `Data point ${i + 1} at ${x}, ${y}. Arrow keys move it, Delete removes it.`);
    });
  }

  return {show, addSomewhere, remove: () => remove()};
}
