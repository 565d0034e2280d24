/** Seeded random numbers: the same seed is the same picture. */

/** A generator {uniform, normal, normals} of its own stream, by a 128-bit xorshift. */
export function generator(seed) {
  // Four words that differ in every bit for neighbouring seeds, by a multiplicative hash.
  let word = seed >>> 0;
  const scramble = () => {
    word = (word + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  let [a, b, c, d] = [scramble(), scramble(), scramble(), scramble() | 1];
  const bits = () => {
    const mixed = a ^ (a << 11);
    [a, b, c] = [b, c, d];
    d = d ^ (d >>> 19) ^ mixed ^ (mixed >>> 8);
    return d >>> 0;
  };
  // 53 bits, strictly between 0 and 1.
  const uniform = () => ((bits() >>> 5) * 0x4000000 + (bits() >>> 6) + 0.5) / 0x20000000000000;

  let spare = null;
  /** Box–Muller, two at a time. */
  const normal = () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  const normals = (count) => Float64Array.from({length: count}, normal);
  return {uniform, normal, normals};
}
