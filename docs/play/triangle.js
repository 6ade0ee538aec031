/* What the three figures of the page "The simplex" share: the logits, the seed, tau, the target of the loss and the
 * draw that is followed; how a triangle is drawn; and the controls of what is shared. */
(function (root) {
  "use strict";

  const argumbel = (root.argumbel = root.argumbel || {});
  const { laws, ui } = argumbel;
  const { fixed, numbers, seedIn } = argumbel.marks;
  const CLASSES = ["a", "b", "c"];
  const NUM_POINTS = 2000;
  const NUM_DRAWS = 250; // of each estimator: eight times 250 dots
  const NUM_CONDITIONAL = 10; // the default of gumbel_rao
  const TAU = { min: 0.05, max: 20 };
  const LEAST = 0.02; // a class is never less probable

  // ---------------------------------------------------------------- what the figures share

  const state = { logits: [-0.69, -1.2, -1.61], tau: 0.5, seed: 7, draw: 4, target: [0.1, 0.25, 0.65] };
  const figures = [];
  const written = ui.address();

  function readAddress() {
    const logits = numbers(written.get("logits"), 3);
    if (logits && logits.every((x) => Math.abs(x) <= 20)) state.logits = logits;
    const target = numbers(written.get("target"), 3);
    if (target && target.every((y) => y >= 0) && Math.abs(target[0] + target[1] + target[2] - 1) < 0.011) {
      state.target = target;
    }
    const [tau] = numbers(written.get("tau"), 1) || [0];
    if (tau >= TAU.min && tau <= TAU.max) state.tau = tau;
    const [draw] = numbers(written.get("draw"), 1) || [-1];
    if (Number.isInteger(draw) && draw >= 0 && draw < NUM_POINTS) state.draw = draw;
    const seed = seedIn(written.get("seed"));
    if (seed !== null) state.seed = seed;
  }
  readAddress();

  function change(changes) {
    Object.assign(state, changes);
    written.set(Object.fromEntries(Object.entries(changes).map(([name, value]) => [name, String(value)])));
    for (const figure of figures) figure.update(changes);
  }

  /* A figure that follows the state: update() runs at once where the figure is on screen, else when it comes there, or
   * when the returned function asks for it. */
  function follow(host, update) {
    let isSeen = true;
    let isLate = false;
    const catchUp = () => {
      if (isLate) update();
      isLate = false;
    };
    new IntersectionObserver((entries) => {
      isSeen = entries[entries.length - 1].isIntersecting;
      if (isSeen) catchUp();
    }).observe(host);
    figures.push({
      update() {
        isLate = true;
        if (isSeen) catchUp();
      },
    });
    update();
    return catchUp;
  }

  // Everything that is made of the seed alone is made once.
  const cache = { seed: null };
  function noise() {
    if (cache.seed !== state.seed) {
      const all = new Float32Array(3 * NUM_POINTS);
      for (let row = 0; row < NUM_POINTS; row++) {
        argumbel.noises(state.seed, row, 3, all.subarray(3 * row, 3 * row + 3));
      }
      Object.assign(cache, { seed: state.seed, all, further: null });
    }
    return cache.all;
  }
  function further() {
    const g = noise().subarray(0, 3 * NUM_DRAWS);
    cache.further = cache.further || {
      gumbel_rao: laws.furtherNoise(g, 3, NUM_CONDITIONAL - 1, argumbel.noises),
      rebar: laws.furtherNoise(g, 3, 1, argumbel.noises),
    };
    return cache.further;
  }

  const loss = {
    value: (y) => y.reduce((sum, v, i) => sum + (v - state.target[i]) ** 2, 0),
    gradient: (y) => y.map((v, i) => 2 * (v - state.target[i])),
  };

  const negative = (v) => v.map((x) => -x);
  const shortTau = (tau) => String(Number(tau.toPrecision(2)));
  // ---------------------------------------------------------------- drawing

  // The triangle on a figure: point(y) and vector(v), in pixels, and inverse([px, py]).
  function triangle(width, height, { side, left, base }) {
    const point = (y) => {
      const [a, b] = laws.toPlane(y);
      return [left + a * side, base - b * side];
    };
    const vector = (v, scale = 1) => {
      const [a, b] = laws.toPlane(v);
      return [a * side * scale, -b * side * scale];
    };
    const inverse = ([x, y]) => laws.fromPlane([(x - left) / side, (base - y) / side]);
    return { side, left, base, point, vector, inverse, corners: [0, 1, 2].map((k) => point(laws.oneHot(k, 3))) };
  }

  function fitted(width, height, { top, bottom, sides }) {
    const side = Math.max(1, Math.min(width - 2 * sides, (height - top - bottom) / laws.HEIGHT));
    return triangle(width, height, { side, left: (width - side) / 2, base: top + side * laws.HEIGHT });
  }

  function outline(context, t) {
    context.beginPath();
    t.corners.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
  }

  // Circles on which the loss is equal: |y - target|^2 = 2 r^2 in the plane of a triangle with sides of length 1.
  function contours(context, t, palette) {
    const [x, y] = t.point(state.target);
    context.save();
    outline(context, t);
    context.clip();
    context.lineWidth = 1;
    context.strokeStyle = palette.line;
    for (let level = 0.1; level < 2.05; level += 0.1) {
      context.beginPath();
      context.arc(x, y, t.side * Math.sqrt(level / 2), 0, 2 * Math.PI);
      context.stroke();
    }
    context.restore();
  }

  function frame(context, t, palette) {
    outline(context, t);
    context.lineWidth = 1.2;
    context.lineJoin = "round";
    context.strokeStyle = palette.faint;
    context.stroke();
  }

  function inside(y) {
    const above = y.map((v) => Math.max(v - LEAST, 0));
    const sum = above[0] + above[1] + above[2];
    return above.map((v) => LEAST + ((1 - 3 * LEAST) * v) / sum);
  }

  /* A handle that moves in two directions: dragged, or by the arrow keys (with Shift in larger steps). */
  function planeHandle(figure, { layout, get, set, label, kind }) {
    const element = ui.html("button", { type: "button", class: `play-handle play-plane play-${kind}` });
    figure.box.append(element);
    let grip = [0, 0];
    ui.drag(element, {
      start(x, y, event) {
        element.focus({ preventScroll: true });
        const [px, py] = layout().point(get());
        const [ex, ey] = figure.at(event);
        grip = [px - ex, py - ey];
      },
      move(x, y, event) {
        const [ex, ey] = figure.at(event);
        set(inside(layout().inverse([ex + grip[0], ey + grip[1]])));
      },
    });
    element.addEventListener("keydown", (event) => {
      const moves = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const by = event.shiftKey ? 0.1 : 0.02;
      const [a, b] = laws.toPlane(get());
      set(inside(laws.fromPlane([a + by * moves[event.key][0], b + by * moves[event.key][1]])));
    });
    return {
      element,
      place() {
        const [x, y] = layout().point(get());
        element.style.transform = `translate(${x}px, ${y}px)`;
        element.setAttribute("aria-label", label());
      },
    };
  }

  const probs = () => laws.softmax(state.logits.map(Math.fround));
  const logits = () => state.logits.map(Math.fround);

  const moveLogits = (p) => change({ logits: p.map((v) => Number(Math.log(v).toFixed(2))) });
  function moveTarget(y) {
    const [a, b] = [y[0], y[1]].map((v) => Number(v.toFixed(2)));
    change({ target: [a, b, Number((1 - a - b).toFixed(2))] });
  }

  const probsHandle = (figure, layout) =>
    planeHandle(figure, {
      layout, get: probs, set: moveLogits, kind: "probs",
      label: () => `Probabilities of a, b and c: ${fixed(probs())}. Arrow keys move them.`,
    });
  const targetHandle = (figure, layout) =>
    planeHandle(figure, {
      layout, get: () => state.target, set: moveTarget, kind: "target",
      label: () => `Target of the loss: ${fixed(state.target)}. Arrow keys move it.`,
    });

  function tauSlider(parent) {
    const slider = ui.slider(parent, {
      label: "tau", log: true, ...TAU, digits: 2, value: state.tau, format: shortTau,
      oninput: (tau) => change({ tau }),
    });
    figures.push({ update: (changes) => "tau" in changes && slider.set(state.tau) });
    return slider;
  }

  function seedField(parent) {
    const field = ui.whole(parent, { label: "Seed", value: state.seed, oninput: (seed) => change({ seed }) });
    figures.push({
      update: (changes) => "seed" in changes && field.value !== state.seed && field.set(state.seed),
    });
    return field;
  }

  function drawField(parent) {
    const field = ui.whole(parent, {
      label: "Follow draw", min: 0, max: NUM_POINTS - 1, value: state.draw, oninput: (draw) => change({ draw }),
    });
    figures.push({
      update: (changes) => "draw" in changes && field.value !== state.draw && field.set(state.draw),
    });
    return field;
  }

  argumbel.triangle = {
    CLASSES, NUM_POINTS, NUM_DRAWS, TAU, state, change, follow, noise, further, loss, negative, shortTau, fitted,
    outline, contours, frame, probs, logits, probsHandle, targetHandle, tauSlider, seedField, drawField,
  };
})(globalThis);
