/** Inputs of the page as the fields of its state, both ways, and the words beside them. */

import * as words from "./words.js";

const LOGARITHMIC = new Set(["rhoMax", "rho", "budget"]);

/** The value that a field stands for: sliders of ratios hold the logarithm to base 10. */
export const valueOf = (state, key) => LOGARITHMIC.has(key) ? 10 ** state[key] : state[key];

function read(input) {
  if (input.type === "checkbox") return input.checked;
  return input.type === "range" || input.id === "particles" ? Number(input.value) : input.value;
}

/** Tells `changed(patch)` of what the reader sets. */
export function attach(changed) {
  for (const input of document.querySelectorAll("[data-key]")) {
    input.addEventListener("input", () => changed({[input.dataset.key]: read(input)}));
  }
  for (const input of document.querySelectorAll("input[name=process], input[name=path]")) {
    input.addEventListener("input", () => changed({[input.name]: input.value}));
  }
}

/** Which controls mean nothing to the process that is shown, and are out of sight. */
function idle(state) {
  return {
    method: state.process !== "reverse", schedule: state.process !== "reverse",
    grid: state.process === "langevin",
    rhoMax: state.process === "langevin" || ["uniform_time", "cosine"].includes(state.grid),
    window: state.process === "langevin",
    rho: state.process !== "langevin", budget: state.process !== "langevin",
  };
}

/** Sets the inputs to a state. */
export function show(state) {
  const off = idle(state);
  for (const input of document.querySelectorAll("[data-key]")) {
    const {key} = input.dataset;
    if (key === "particle") input.max = String(state.particles);
    if (input.type === "checkbox") input.checked = state[key];
    else input.value = String(state[key]);
    if (key in off) {
      input.closest("label").hidden = off[key];
    }
    const said = input.parentElement.querySelector("output");
    if (said && input.type === "range") {
      said.textContent = words.brief(valueOf(state, key));
      input.setAttribute("aria-valuetext", said.textContent);
    }
  }
  for (const name of ["process", "path"]) {
    for (const input of document.querySelectorAll(`input[name=${name}]`)) {
      input.checked = input.value === state[name];
    }
  }
  const pure = document.querySelector("#start option[value=gaussian]");
  pure.disabled = state.process === "forward";
  document.getElementById("seed").textContent = String(state.seed);
}
