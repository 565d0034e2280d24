/** What the page says of each process, path and method; a few plain sentences, as HTML. */

export const processes = {
  forward: "Forward adds noise: each step shrinks a state towards 0 and adds a fresh Gaussian, "
    + "exactly, however long the step. It needs no score, and it forgets the data.",
  langevin: "Langevin stays at one noise level: each step follows the score and adds noise. Single "
    + "particles move, their distribution stays: the identity on distributions.",
  reverse: "Reverse takes noise away: it is Langevin minus forward, and needs the score. η says "
    + "how much fresh noise it adds on the way: 0 none, an ODE; 1 as much as the forward SDE.",
};

export const paths = {
  vp: "Variance preserving: α = e<sup>−t/2</sup>, σ² = 1 − e<sup>−t</sup>, time t from 0 to 10.",
  ve: "Variance exploding (Karras): α = 1, and time is σ itself, from 0 to 80.",
  rectified_flow: "Rectified flow: α = 1 − s, σ = s, time s from 0 to 1.",
  cosine: "Cosine: α = cos(πt/2), σ = sin(πt/2), time t from 0 to 1.",
};

export const methods = {
  step: "STEP(h, η²h), with D held fixed during a step: order 1, one call a step. η = 0 is DDIM, "
    + "η = 1 DDPM.",
  multistep: "DPM-Solver++(2M): D as a line through this step’s value and the last one’s. Order 2, "
    + "one call a step.",
  singlestep: "The step’s noise first, exactly; then DPM-Solver++(2S), with D half-way too. Order "
    + "2, two calls a step.",
  heun: "The step’s noise first, exactly (EDM’s churn); then Heun’s step in ρ. Order 2, two calls "
    + "a step.",
  euler_maruyama: "The reverse SDE of Table 4 in the path’s own time, by its slope at the start of "
    + "each step. Order 1, one call a step.",
};

export const eta = {
  reverse: "0 ODE · 1 SDE",
  other: "of the triangle’s reverse steps",
};

const minus = (text) => text.replace("-", "−");
const raised = (digit) => digit === "−" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)];

/** A number in few digits. */
export function brief(value, digits = 3) {
  if (Math.abs(value) === Infinity) return value > 0 ? "∞" : "−∞";
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) {
    const [mantissa, power] = value.toExponential(1).split("e");
    return `${minus(mantissa)}·10${[...minus(String(Number(power)))].map(raised).join("")}`;
  }
  return minus(String(Number(value.toPrecision(digits))));
}

/** A coordinate, always of as many places. */
export const place = (v) => minus(Math.abs(v) < 100 ? v.toFixed(3) : v.toFixed(1));

/** x₀, x₁ …, with a prime for the reverse side. */
export const node = (k, prime = "") => `x${String.fromCharCode(0x2080 + k)}${prime}`;
