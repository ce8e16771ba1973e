// Random numbers that are the same in every browser, given a seed.
function random(seed) { // mulberry32: uniform numbers in [0, 1)
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
const gaussian = (draw) => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw()); // Box and Muller
function choose(draw, probabilities) { // an index, each with its probability; -1 for what is missing to 1
  let left = draw();
  return probabilities.findIndex((p) => (left -= p) < 0);
}
