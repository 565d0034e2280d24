/**
 * Gaussian mixtures in the plane, diffused to any noise level (α, σ), exactly.
 *
 *   p(x) = Σ w_k N(x; α m_k, V_k),   V_k = α²S_k + σ²I,   r_k ∝ w_k N(x; α m_k, V_k)
 *   s = −Σ r_k V_k⁻¹(x − α m_k),     D = Σ r_k [m_k + α S_k V_k⁻¹(x − α m_k)]
 *
 * A mixture is {weights: [K], means: [K][2], covariances: [K][2][2]}; many states are one
 * Float64Array x₀ y₀ x₁ y₁ …
 */

/** The mixture at the level (α, σ), ready to be evaluated; (1, 0) is the data itself. */
export function at(mixture, alpha, sigma) {
  const total = mixture.weights.reduce((sum, weight) => sum + weight, 0);
  const parts = mixture.weights.map((weight, k) => {
    const [[sxx, sxy], [, syy]] = mixture.covariances[k];
    const [mx, my] = mixture.means[k];
    const vxx = alpha * alpha * sxx + sigma * sigma;
    const vyy = alpha * alpha * syy + sigma * sigma;
    const vxy = alpha * alpha * sxy;
    const determinant = vxx * vyy - vxy * vxy;
    return {
      mx, my, sxx, sxy, syy, cx: alpha * mx, cy: alpha * my,
      ixx: vyy / determinant, ixy: -vxy / determinant, iyy: vxx / determinant,
      constant: Math.log(weight / total) - Math.log(2 * Math.PI) - 0.5 * Math.log(determinant),
    };
  });
  return {alpha, parts, logs: new Float64Array(parts.length)};
}

/** log p, the score (sx, sy) and the denoiser (dx, dy) at one place; the object is reused. */
export function evaluate(level, x, y, result = {}) {
  const {alpha, parts, logs} = level;
  let top = -Infinity;
  for (let k = 0; k < parts.length; k++) {
    const part = parts[k], ux = x - part.cx, uy = y - part.cy;
    logs[k] = part.constant - 0.5 * (part.ixx * ux * ux + 2 * part.ixy * ux * uy
      + part.iyy * uy * uy);
    top = Math.max(top, logs[k]);
  }
  let sum = 0, sx = 0, sy = 0, dx = 0, dy = 0;
  for (let k = 0; k < parts.length; k++) {
    const part = parts[k], ux = x - part.cx, uy = y - part.cy;
    const wx = part.ixx * ux + part.ixy * uy, wy = part.ixy * ux + part.iyy * uy;
    const share = Math.exp(logs[k] - top);
    sum += share;
    sx -= share * wx;
    sy -= share * wy;
    dx += share * (part.mx + alpha * (part.sxx * wx + part.sxy * wy));
    dy += share * (part.my + alpha * (part.sxy * wx + part.syy * wy));
  }
  result.logDensity = top + Math.log(sum);
  result.sx = sx / sum;
  result.sy = sy / sum;
  result.dx = dx / sum;
  result.dy = dy / sum;
  return result;
}

/** D = E[x₀ | x] of every state. */
export function denoise(level, states) {
  const denoised = new Float64Array(states.length), here = {};
  for (let i = 0; i < states.length; i += 2) {
    evaluate(level, states[i], states[i + 1], here);
    denoised[i] = here.dx;
    denoised[i + 1] = here.dy;
  }
  return denoised;
}

/** n draws of the data. `random` is a generator of random.js. */
export function sample(mixture, random, n) {
  const total = mixture.weights.reduce((sum, weight) => sum + weight, 0);
  const states = new Float64Array(2 * n);
  for (let i = 0; i < n; i++) {
    let k = 0;
    for (let left = random.uniform() * total; k < mixture.weights.length - 1; k++) {
      left -= mixture.weights[k];
      if (left < 0) break;
    }
    // The Cholesky root of S_k.
    const [[sxx, sxy], [, syy]] = mixture.covariances[k];
    const a = Math.sqrt(sxx), b = a > 0 ? sxy / a : 0, c = Math.sqrt(Math.max(syy - b * b, 0));
    const u = random.normal(), v = random.normal();
    states[2 * i] = mixture.means[k][0] + a * u;
    states[2 * i + 1] = mixture.means[k][1] + b * u + c * v;
  }
  return states;
}
