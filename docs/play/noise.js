/* The noise of argumbel in the browser: noise[seed, row, item], the same number to the bit as
 * argumbel.KeyedNoise(seed, rows=[row], items=[item]) gives in Python.
 *
 * The file follows src/argumbel/kernels/README.md line by line (Philox4x32-10, then a logarithm that is fixed operation
 * by operation). It is a classic script, so that it also runs from file://; Node may require it.
 *
 * Numbers are float32 unless the name says 64. In JavaScript every number is a float64, and Math.fround rounds it to
 * float32. One sum, product or quotient of float32 numbers may be rounded twice in this way (float64 has more than
 * 2 * 24 + 1 bits, so the second rounding gives what one rounding gives). A fused multiply-add fround(a * b + c) needs
 * more care: its float64 sum is exact here, as in the reference, because every a * b + c of this file has at most 53
 * significant bits. */
(function (root) {
  "use strict";

  const fround = Math.fround;
  const C0 = 0.5000246167182922;
  const C1 = 0.33212924003601074;
  const C2 = 0.26966291666030884;
  const C3 = 0.05082383751869202;
  const C4 = 0.7516154050827026;
  const C5 = -1.0361659526824951;
  const C6 = 1.160612940788269;
  const LN2 = 0.693147182464599609375;
  const LN2_HIGH_64 = 0x162e42fefa3 / 2 ** 41;
  const LN2_LOW_64 = Number(0x13de6af278ece6n) / 2 ** 94;
  const ODD_64 = [19, 17, 15, 13, 11, 9, 7, 5, 3].map((k) => 2 / k);
  const REFINE_BELOW = 1 << 18;
  const LAWS = ["gumbel", "exponential", "uniform", "logistic", "odds"];

  // One number seen as float32 and as int32, one as float64 and as two words of 32 bits.
  const asFloat = new Float32Array(1);
  const asInt = new Int32Array(asFloat.buffer);
  const asDouble = new Float64Array(1);
  const asWords = new Uint32Array(asDouble.buffer);
  const HIGH = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1 ? 1 : 0; // where the upper word lies
  const LOW = 1 - HIGH;

  /** The two 32-bit words [lower, upper] of a whole number of 64 bits; a negative one is in two's complement. */
  function halves(name, x) {
    if (typeof x === "bigint") {
      const bits = BigInt.asUintN(64, x);
      return [Number(bits & 0xffffffffn), Number(bits >> 32n)];
    }
    if (!Number.isSafeInteger(x)) {
      throw new TypeError(
        `${name} must be a whole number that a float64 holds exactly, or a BigInt, but it is ${x}; ` +
          "write larger ones as 123n"
      );
    }
    return [x >>> 0, Math.floor(x / 2 ** 32) >>> 0];
  }

  // ---------------------------------------------------------------------------------------- from a key to words

  /** The upper 32 bits of the product of two 32-bit words. */
  function highProduct(a, b) {
    const aLow = a & 0xffff;
    const aHigh = a >>> 16;
    const bLow = b & 0xffff;
    const bHigh = b >>> 16;
    const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32, as is every sum here
    const other = aLow * bHigh + (middle & 0xffff);
    return (aHigh * bHigh + (middle >>> 16) + (other >>> 16)) | 0;
  }

  const block = new Uint32Array(4); // what philox wrote

  /** Ten rounds of Philox4x32; the four words are left in `block`. */
  function philox(x0, x1, x2, x3, k0, k1) {
    for (let round = 0; round < 10; round++) {
      const y0 = highProduct(x2, 0xcd9e8d57) ^ x1 ^ k0;
      const y2 = highProduct(x0, 0xd2511f53) ^ x3 ^ k1;
      x1 = Math.imul(x2, 0xcd9e8d57);
      x3 = Math.imul(x0, 0xd2511f53);
      x0 = y0;
      x2 = y2;
      k0 = (k0 + 0x9e3779b9) | 0;
      k1 = (k1 + 0xbb67ae85) | 0;
    }
    block[0] = x0;
    block[1] = x1;
    block[2] = x2;
    block[3] = x3;
  }

  /** The word of an item in a stream: 0 gives the first 32 bits of its noise, 1 the second. */
  function word(seed, row, item, stream) {
    const lower = (item[0] >>> 2) | (item[1] << 30);
    philox(lower, (item[1] >>> 2) | (stream << 30), row[0], row[1], seed[0], seed[1]);
    return block[item[0] & 3];
  }

  // ---------------------------------------------------------------------------------------- float32: from words to numbers

  /** The distance h from the nearer end of (0, 1): u = h, or 1 - h where first >= 2^31. */
  function halfDistance(first, second) {
    const isUpper = first >= 0x80000000;
    const near = isUpper ? 0xffffffff - first : first;
    if (near >= REFINE_BELOW) return fround(fround(near) + 0.5) * 2 ** -32;
    const rest = isUpper ? 0xffffffff - second : second;
    return fround((near * 2 ** 32 + rest + 0.5) * 2 ** -64);
  }

  /** -log(1 - q) for q in [0, 1/2]; grid is q rounded to a multiple of 2^-24. Every sum is exact before fround. */
  function minusLog1p(q, grid) {
    let s = fround(C6 * grid + C5);
    s = fround(s * grid + C4);
    s = fround(s * grid + C3);
    s = fround(s * grid + C2);
    s = fround(s * grid + C1);
    s = fround(s * grid + C0);
    return fround(q * fround(s * grid + 1));
  }

  function exponential(first, second) {
    const h = halfDistance(first, second);
    if (first < 0x80000000) return minusLog1p(h, fround(1 - fround(1 - h)));
    asFloat[0] = h; // h = m 2^-n with m in [1/2, 1)
    const n = 126 - (asInt[0] >> 23);
    asInt[0] = (asInt[0] & 0x7fffff) | 0x3f000000;
    const grid = fround(1 - asFloat[0]);
    return fround(n * LN2 + minusLog1p(grid, grid));
  }

  function gumbel(first, second) {
    asFloat[0] = exponential(first, second);
    const n = 126 - (asInt[0] >> 23);
    asInt[0] = (asInt[0] & 0x7fffff) | 0x3f000000;
    const q = fround(1 - asFloat[0]);
    return fround(n * LN2 + minusLog1p(q, q));
  }

  function uniform(first, second) {
    const h = halfDistance(first, second);
    return first < 0x80000000 ? h : Math.min(fround(1 - h), 1 - 2 ** -24);
  }

  function logistic(first, second) {
    return fround(exponential(~first >>> 0, ~second >>> 0) - exponential(first, second));
  }

  function odds(first, second) {
    const h = halfDistance(first, second);
    const rest = fround(1 - h);
    return first < 0x80000000 ? fround(h / rest) : fround(rest / h);
  }

  // ---------------------------------------------------------------------------------------- float64

  function halfDistance64(first, second) {
    const isUpper = first >= 0x80000000;
    const near = isUpper ? 0xffffffff - first : first;
    const rest = isUpper ? 0xffffffff - second : second;
    return (near * 2 ** 32 + rest + 0.5) * 2 ** -64;
  }

  function log64(x) {
    asDouble[0] = x;
    const upper = asWords[HIGH];
    const n = (upper - 0x3fe6a09e - (asWords[LOW] < 0x667f3bcd ? 1 : 0)) >> 20;
    asWords[HIGH] = upper - n * 2 ** 20;
    const f = asDouble[0] - 1;
    const s = f / (f + 2);
    const z = s * s;
    const half = 0.5 * f * f;
    let r = 2 / 21;
    for (let i = 0; i < ODD_64.length; i++) r = r * z + ODD_64[i];
    return n * LN2_HIGH_64 + (f - (half - s * (half + r * z)) + n * LN2_LOW_64);
  }

  function exponential64(first, second) {
    const h = halfDistance64(first, second);
    const isUpper = first >= 0x80000000;
    const x = isUpper ? h : 1 - h;
    return -(log64(x) + (isUpper ? 0 : 1 - x - h) / x); // the second term: what rounding took off 1 - h
  }

  function gumbel64(first, second) {
    return -log64(exponential64(first, second));
  }

  function uniform64(first, second) {
    const h = halfDistance64(first, second);
    return first < 0x80000000 ? h : Math.min(1 - h, 1 - 2 ** -53);
  }

  function logistic64(first, second) {
    return exponential64(~first >>> 0, ~second >>> 0) - exponential64(first, second);
  }

  function odds64(first, second) {
    const h = halfDistance64(first, second);
    return first < 0x80000000 ? h / (1 - h) : (1 - h) / h;
  }

  const TO_NUMBER = { gumbel, exponential, uniform, logistic, odds };
  const TO_NUMBER_64 = {
    gumbel: gumbel64,
    exponential: exponential64,
    uniform: uniform64,
    logistic: logistic64,
    odds: odds64,
  };

  // ---------------------------------------------------------------------------------------- what pages call

  function lawOf(table, law) {
    if (!Object.hasOwn(table, law)) {
      throw new TypeError(`law must be one of ${LAWS.join(", ")}, but it is ${law}; choose one of them`);
    }
    return table[law];
  }

  /** The float32 noise of one key; `law` is "gumbel", "exponential", "uniform", "logistic" or "odds". */
  function noise(seed, row, item, law = "gumbel") {
    const [s, r, i] = [halves("seed", seed), halves("row", row), halves("item", item)];
    return lawOf(TO_NUMBER, law)(word(s, r, i, 0), word(s, r, i, 1));
  }

  /** The same in float64, from all 64 bits: another number, near the float32 one. */
  function noise64(seed, row, item, law = "gumbel") {
    const [s, r, i] = [halves("seed", seed), halves("row", row), halves("item", item)];
    return lawOf(TO_NUMBER_64, law)(word(s, r, i, 0), word(s, r, i, 1));
  }

  const firstWords = new Uint32Array(4);

  function isNear(first) {
    return (first >= 0x80000000 ? 0xffffffff - first : first) < REFINE_BELOW;
  }

  /** The float32 noise of items 0 to n - 1 of a row, as a Float32Array. Faster than n calls of `noise`. */
  function noises(seed, row, n, out = new Float32Array(n), law = "gumbel") {
    const toNumber = lawOf(TO_NUMBER, law);
    const [s, r] = [halves("seed", seed), halves("row", row)];
    for (let start = 0; start < n; start += 4) {
      philox(start >>> 2, 0, r[0], r[1], s[0], s[1]);
      firstWords.set(block);
      const end = Math.min(4, n - start);
      let refines = false;
      for (let j = 0; j < end; j++) refines = refines || isNear(firstWords[j]);
      // The second words are looked at near the ends of (0, 1) alone.
      if (refines) philox(start >>> 2, 1 << 30, r[0], r[1], s[0], s[1]);
      for (let j = 0; j < end; j++) out[start + j] = toNumber(firstWords[j], block[j]);
    }
    return out;
  }

  /** The race of one row, as argumbel.gumbel_max: perturbed logits in float32, and the first item of the largest. */
  function race(logits, seed, row, temperature = 1) {
    const n = logits.length;
    const values = noises(seed, row, n);
    let index = 0;
    for (let i = 0; i < n; i++) {
      values[i] = fround(fround(fround(logits[i]) / fround(temperature)) + values[i]);
      if (values[i] > values[index]) index = i;
    }
    return { index, value: values[index], values };
  }

  /** How often each item is among the first k, in rows first to first + count - 1, added to `counts`. */
  function countFirst(logits, k, seed, first, count, counts = new Float64Array(logits.length)) {
    const n = logits.length;
    const scores = Float32Array.from(logits);
    const values = new Float32Array(n);
    for (let row = first; row < first + count; row++) {
      noises(seed, row, n, values);
      for (let i = 0; i < n; i++) values[i] = scores[i] + values[i]; // an array of float32 rounds what it takes
      for (let place = 0; place < k; place++) {
        let index = 0;
        for (let i = 1; i < n; i++) if (values[i] > values[index]) index = i;
        counts[index] += 1;
        values[index] = -Infinity;
      }
    }
    return counts;
  }

  /** The first k items, in the order drawn, as argumbel.gumbel_topk of the perturbed logits. */
  function firstK(values, k) {
    return Array.from(values, (_, i) => i)
      .sort((a, b) => values[b] - values[a] || a - b)
      .slice(0, k);
  }

  /** When a row of a table arrives, as argumbel.tables.Reservoir computes it: E / weight in float64. */
  function arrival(seed, id, weight) {
    return noise64(seed, 0, id, "exponential") / weight;
  }

  /** softmax(logits / temperature), in float64. */
  function softmax(logits, temperature = 1) {
    const scores = Array.from(logits, (x) => x / temperature);
    const top = Math.max(...scores);
    const weights = scores.map((x) => Math.exp(x - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / sum);
  }

  /** The probability that each item is among the first k, by a sum over all sets of fewer items; for few items. */
  function inclusionProbs(logits, k) {
    const weights = softmax(logits);
    const n = weights.length;
    const reached = new Float64Array(2 ** n); // of each set the probability that its items are the first
    const total = new Float64Array(n);
    reached[0] = 1;
    for (let set = 0; set < 2 ** n; set++) {
      const left = weights.reduce((sum, w, i) => ((set >> i) & 1 ? sum : sum + w), 0);
      const size = n - weights.filter((_, i) => !((set >> i) & 1)).length;
      if (size >= k) continue;
      for (let i = 0; i < n; i++) {
        if ((set >> i) & 1) continue;
        const p = (reached[set] * weights[i]) / left;
        reached[set | (1 << i)] += p;
        total[i] += p;
      }
    }
    return Array.from(total);
  }

  const argumbel = Object.assign(root.argumbel || {}, {
    noise,
    noise64,
    noises,
    race,
    countFirst,
    firstK,
    arrival,
    softmax,
    inclusionProbs,
  });
  root.argumbel = argumbel;
  if (typeof module === "object" && module.exports) module.exports = argumbel;
})(typeof globalThis === "object" ? globalThis : this);
