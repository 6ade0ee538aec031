// The formulas of the pages "The simplex" and "Reverse", on plain arrays. Rows of noise lie one after another in one
// array. Where a comparison decides a winner it is made in float32, as the library makes it; all else is float64.
(function (root) {
  "use strict";

  function logSumExp(x) {
    let top = -Infinity;
    for (const v of x) top = Math.max(top, v);
    if (top === -Infinity) return top;
    let sum = 0;
    for (const v of x) sum += Math.exp(v - top);
    return top + Math.log(sum);
  }

  function softmax(x) {
    const out = new Array(x.length);
    let top = -Infinity;
    for (let i = 0; i < x.length; i++) top = Math.max(top, x[i]);
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += out[i] = Math.exp(x[i] - top);
    for (let i = 0; i < x.length; i++) out[i] /= sum;
    return out;
  }

  function logAddExp(a, b) {
    const top = Math.max(a, b);
    return top === -Infinity ? top : top + Math.log1p(Math.exp(-Math.abs(a - b)));
  }

  // The winner of x + g; g starts at `at`. The first of equal values wins.
  function winner(x, g, at) {
    let best = -Infinity;
    let index = 0;
    for (let i = 0; i < x.length; i++) {
      const value = Math.fround(Math.fround(x[i]) + g[at + i]);
      if (value > best) {
        best = value;
        index = i;
      }
    }
    return index;
  }

  function winners(x, g) {
    const n = x.length;
    const out = new Uint8Array(g.length / n);
    for (let row = 0; row < out.length; row++) out[row] = winner(x, g, row * n);
    return out;
  }

  function count(index, n) {
    const out = new Array(n).fill(0);
    for (const i of index) out[i]++;
    return out;
  }

  // ---------------------------------------------------------------- relaxed choices

  // out[row] = softmax((x + g[row]) / tau).
  function relaxed(x, g, tau, out) {
    const n = x.length;
    out = out || new Float64Array(g.length);
    for (let at = 0; at < g.length; at += n) {
      let top = -Infinity;
      for (let i = 0; i < n; i++) top = Math.max(top, x[i] + g[at + i]);
      let sum = 0;
      for (let i = 0; i < n; i++) sum += out[at + i] = Math.exp((x[i] + g[at + i] - top) / tau);
      for (let i = 0; i < n; i++) out[at + i] /= sum;
    }
    return out;
  }

  // The log density of the Concrete law at log y, with respect to the area in which the simplex has the coordinates
  // y[0], ..., y[n - 2].
  function concreteLogDensity(x, tau, logY) {
    const n = x.length;
    const z = new Array(n);
    let sum = (n - 1) * Math.log(tau);
    for (let k = 2; k < n; k++) sum += Math.log(k);
    for (let i = 0; i < n; i++) {
      z[i] = x[i] - tau * logY[i];
      sum += z[i] - logY[i];
    }
    return sum - n * logSumExp(z);
  }

  // ---------------------------------------------------------------- the race, given its winner

  // values[k] = T = logsumexp(x) + g[k]; values[i] = -logaddexp(-(x[i] + g[i]), -T).
  function posterior(x, g, at, k, out, to) {
    const height = logSumExp(x) + g[at + k];
    for (let i = 0; i < x.length; i++) {
      out[to + i] = i === k ? height : -logAddExp(-(x[i] + g[at + i]), -height);
    }
  }

  // The density at v of the value of item i: of all worlds, or of those that k won.
  function valueDensity(x, i, k, v) {
    const z = logSumExp(x);
    const gumbel = (at) => Math.exp(at - v - Math.exp(at - v));
    if (k === null) return gumbel(x[i]);
    if (i === k) return gumbel(z);
    const rest = -Math.expm1(x[i] - z); // the part of Z that is not of item i
    return (Math.exp(x[i] - v) * (Math.exp(-Math.exp(x[i] - v)) - Math.exp(-Math.exp(z - v)))) / rest;
  }

  // What wins under `other`, in the world of noise g that k won under x.
  function counterfactual(x, g, at, k, other) {
    const height = logSumExp(x) + g[at + k];
    let best = 0;
    let answer = k;
    for (let j = 0; j < x.length; j++) {
      if (j === k) continue;
      const deficit = logAddExp(height - x[j] - g[at + j], 0);
      const ahead = other[j] - x[j] - (other[k] - x[k]) - deficit;
      if (ahead > best) {
        best = ahead;
        answer = j;
      }
    }
    return answer;
  }

  // P(j wins under `other` | k won under x), for all j.
  function counterfactualProbs(x, k, other) {
    const p = softmax(x);
    const q = softmax(other);
    const n = x.length;
    // From the logits, so that equal ratios are equal to the bit.
    const shift = logSumExp(other) - logSumExp(x);
    const ratio = p.map((_, i) => Math.exp(x[i] - other[i] + shift));
    const order = p.map((_, i) => i).sort((i, j) => ratio[i] - ratio[j]);
    const b = (t) => p.reduce((sum, _, i) => sum + Math.max(p[i], q[i] * t), 0);
    const out = new Array(n).fill(0);
    let integral = 0; // of 1 / B^2, from the ratio at hand up to the ratio of the winner
    for (let place = order.indexOf(k) - 1, s = ratio[k]; place >= 0; place--) {
      const t = ratio[order[place]];
      integral += (s - t) / (b(s) * b(t));
      out[order[place]] = q[order[place]] * integral;
      s = t;
    }
    out[k] = 1 / b(ratio[k]);
    return out;
  }

  // ---------------------------------------------------------------- further noise, from the bits of the first

  const ODD = 0x1e3779b97f4a7c15n;

  // The key that the library makes of a row of float32 noise; `count` further rows of noise lie under it.
  function furtherKey(g, at, n) {
    const bits = new Int32Array(g.buffer, g.byteOffset, g.length);
    let key = 0n;
    for (let i = 0; i < n; i++) {
      const mixed = BigInt.asIntN(64, (BigInt(bits[at + i]) + ODD * BigInt(i + 1)) * ODD);
      key += (mixed ^ (mixed >> 32n)) * ODD;
    }
    return BigInt.asUintN(64, key);
  }

  // For every row of noise g, a Float32Array: `count` further rows of it, one after another.
  function furtherNoise(g, n, count, noises) {
    const out = new Float32Array(g.length * count);
    for (let row = 0; row * n < g.length; row++) {
      const key = furtherKey(g, row * n, n);
      for (let j = 0; j < count; j++) out.set(noises(j, key, n), (row * count + j) * n);
    }
    return out;
  }

  // ---------------------------------------------------------------- gradients of an expected loss
  //
  // A loss has `value(y)` and `gradient(y)`, which returns an array. An estimator takes x, the noise of one draw and
  // what else it needs, and returns the gradient with respect to x.

  // (diag y - y y') v: what a softmax y passes back.
  function softmaxBackward(y, v) {
    let mean = 0;
    for (let i = 0; i < y.length; i++) mean += y[i] * v[i];
    const out = new Array(y.length);
    for (let i = 0; i < y.length; i++) out[i] = y[i] * (v[i] - mean);
    return out;
  }

  const scaled = (v, by) => v.map((vi) => vi * by);
  const soft = (values, tau) => softmax(values.map((v) => v / tau));

  function oneHot(k, n) {
    const out = new Array(n).fill(0);
    out[k] = 1;
    return out;
  }

  function rowOf(g, at, n) {
    const out = new Array(n);
    for (let i = 0; i < n; i++) out[i] = g[at + i];
    return out;
  }

  function exactGradient(loss, x) {
    const p = softmax(x);
    return softmaxBackward(p, p.map((_, k) => loss.value(oneHot(k, p.length))));
  }

  // Each: (loss, x, draw) -> gradient. A draw holds tau, `noise` (one row), `second` (the row of a second sample) and
  // `further` (rows of further noise).
  const estimators = {
    reinforce(loss, x, { noise }) {
      const p = softmax(x);
      const z = oneHot(winner(x, noise, 0), x.length);
      return scaled(z.map((zi, i) => zi - p[i]), loss.value(z));
    },

    reinforce_loo(loss, x, { noise, second }) {
      const [z, other] = [noise, second].map((g) => oneHot(winner(x, g, 0), x.length));
      return scaled(z.map((zi, i) => zi - other[i]), (loss.value(z) - loss.value(other)) / 2);
    },

    rebar(loss, x, { noise, further, tau }) {
      const n = x.length;
      const p = softmax(x);
      const logP = p.map(Math.log);
      const k = winner(x, noise, 0);
      const won = oneHot(k, n);
      const known = new Array(n);
      posterior(logP, further, 0, k, known, 0);
      const passed = (z) => {
        const y = soft(z, tau);
        return [loss.value(y), scaled(softmaxBackward(y, loss.gradient(y)), 1 / tau)];
      };
      const [, along] = passed(logP.map((v, i) => v + noise[i]));
      const [control, back] = passed(known);
      const path = back.map((v, i) => (i === k ? 0 : -v * Math.expm1(known[i] - known[k])));
      const total = path.reduce((sum, v) => sum + v, 0);
      const weight = loss.value(won) - control;
      return along.map((v, i) => v - (path[i] - p[i] * total) + weight * (won[i] - p[i]));
    },

    gumbel_softmax(loss, x, { noise, tau }) {
      const y = soft(x.map((v, i) => v + noise[i]), tau);
      return scaled(softmaxBackward(y, loss.gradient(y)), 1 / tau);
    },

    softmax_straight_through(loss, x, { noise, tau }) {
      const z = oneHot(winner(x, noise, 0), x.length);
      return scaled(softmaxBackward(soft(x, tau), loss.gradient(z)), 1 / tau);
    },

    gumbel_straight_through(loss, x, { noise, tau }) {
      const z = oneHot(winner(x, noise, 0), x.length);
      const y = soft(x.map((v, i) => v + noise[i]), tau);
      return scaled(softmaxBackward(y, loss.gradient(z)), 1 / tau);
    },

    gumbel_rao(loss, x, { noise, further, tau }) {
      const n = x.length;
      const k = winner(x, noise, 0);
      const slope = loss.gradient(oneHot(k, n));
      const sum = estimators.gumbel_straight_through(loss, x, { noise, tau });
      const rows = further.length / n;
      const known = new Array(n);
      for (let j = 0; j < rows; j++) {
        posterior(x, further, j * n, k, known, 0);
        const back = softmaxBackward(soft(known, tau), slope);
        for (let i = 0; i < n; i++) sum[i] += back[i] / tau;
      }
      return scaled(sum, 1 / (rows + 1));
    },

    reinmax(loss, x, { noise, tau }) {
      const n = x.length;
      const z = oneHot(winner(x, noise, 0), n);
      const slope = loss.gradient(z);
      const middle = soft(x, tau).map((v, i) => (v + z[i]) / 2);
      const far = softmaxBackward(softmax(x), slope);
      return softmaxBackward(middle, slope).map((v, i) => 2 * v - far[i] / 2);
    },
  };

  // ---------------------------------------------------------------- the triangle

  // Corners of an upright triangle with sides of length 1: class 0 left, class 1 right, class 2 on top.
  const HEIGHT = Math.sqrt(3) / 2;
  const CORNERS = [[0, 0], [1, 0], [0.5, HEIGHT]];

  function toPlane(y) {
    return [y[1] + y[2] / 2, y[2] * HEIGHT];
  }

  function fromPlane([a, b]) {
    const top = b / HEIGHT;
    return [1 - a - top / 2, a - top / 2, top];
  }

  // The mean of points (a, b, a, b, ...), and the half axes and the angle of their ellipse of one standard deviation.
  function ellipse(points) {
    const m = points.length / 2;
    let a = 0, b = 0;
    for (let i = 0; i < m; i++) {
      a += points[2 * i] / m;
      b += points[2 * i + 1] / m;
    }
    let aa = 0, ab = 0, bb = 0;
    for (let i = 0; i < m; i++) {
      const [da, db] = [points[2 * i] - a, points[2 * i + 1] - b];
      aa += (da * da) / m;
      ab += (da * db) / m;
      bb += (db * db) / m;
    }
    const half = Math.hypot((aa - bb) / 2, ab);
    const middle = (aa + bb) / 2;
    return {
      mean: [a, b],
      axes: [Math.sqrt(middle + half), Math.sqrt(Math.max(0, middle - half))],
      angle: Math.atan2(2 * ab, aa - bb) / 2,
      spread: Math.sqrt(aa + bb),
    };
  }

  const laws = {
    logSumExp, softmax, winner, winners, count, relaxed, concreteLogDensity, posterior, valueDensity, counterfactual,
    counterfactualProbs, furtherNoise, softmaxBackward, oneHot, rowOf, exactGradient, estimators, CORNERS, HEIGHT,
    toPlane, fromPlane, ellipse,
  };
  root.argumbel = root.argumbel || {};
  root.argumbel.laws = laws;
  if (typeof module !== "undefined") module.exports = laws;
})(typeof window === "undefined" ? globalThis : window);
