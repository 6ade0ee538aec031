/* Straight-through: forward the corner, backward the gradient of the soft point. */
(function (root) {
  "use strict";

  const { argumbel } = root;
  const { laws, ui } = argumbel;
  const { arrow, colour, dot, words, fitting, columns, fixed, pythonFloat, rounded, pythonRound } = argumbel.marks;
  const {
    CLASSES, NUM_POINTS, state, change, follow, noise, loss, negative, fitted, contours, frame, probs, logits,
    targetHandle, tauSlider,
  } = argumbel.triangle;
  const NUM_ARROWS = 150;
  const STEPS = ["Soft point y", "Jump to the corner z", "Slope at the corner", "Borrowed by y", "Every draw"];
  const ARROW = 0.3; // the length of a slope of 1, in sides of the triangle

  argumbel.play("straight-through", (host) => {
    const [picture, side] = columns(host, "straight");
    let t = null;
    let step = 3;
    let shown = 3; // where the transition is
    let target = null;
    const borrowedBy = (g) => laws.estimators.gumbel_straight_through(loss, logits(), { noise: g, tau: state.tau });
    const softOf = (g) => laws.softmax(logits().map((v, i) => (v + g[i]) / state.tau));
    let one = null;
    let many = null;

    const figure = ui.canvas(picture, {
      height: fitting,
      resized: (self) => {
        t = fitted(self.width, self.height, { top: 34, bottom: 36, sides: 26 });
        if (target) target.place();
      },
      draw(context, width, height, palette) {
        contours(context, t, palette);
        frame(context, t, palette);
        t.corners.forEach(([x, y], k) => {
          words(context, CLASSES[k], x + [-14, 14, 0][k], y + (k === 2 ? -16 : 10), palette, {
            ink: palette.series[k], bold: true,
          });
        });
        const all = ui.ease(shown - 3);
        if (all > 0) everyDraw(context, palette, all);
        if (all < 1) oneDraw(context, palette, 1 - all);
        const [x, y] = t.point(state.target);
        words(context, "target", x + 16, y, palette, { align: "left", ink: palette.soft });
      },
    });

    function oneDraw(context, palette, alpha) {
      const { y, z, slope, borrowed, won } = one;
      const ink = palette.series[won];
      const [soft, corner] = [t.point(y), t.point(z)];
      const jump = ui.ease(shown);
      const grow = ui.ease(shown - 1);
      const carry = ui.ease(shown - 2);
      const between = (a, b, by) => a.map((v, i) => v + by * (b[i] - v));
      context.globalAlpha = alpha;
      colour(context, ink);
      if (jump > 0) {
        context.setLineDash([2, 5]);
        context.lineWidth = 2;
        context.lineCap = "round";
        context.beginPath();
        context.moveTo(...soft);
        context.lineTo(...between(soft, corner, jump));
        context.stroke();
        context.setLineDash([]);
        context.lineCap = "butt";
        dot(context, between(soft, corner, jump), 6);
      }
      if (grow > 0) {
        context.globalAlpha = alpha * (1 - 0.6 * carry);
        arrow(context, corner, t.vector(negative(slope), ARROW * grow), { width: 2.5, head: 11 });
        context.globalAlpha = alpha;
      }
      if (carry > 0) {
        const vector = between(negative(slope), negative(borrowed), carry);
        arrow(context, between(corner, soft, carry), t.vector(vector, ARROW), { width: 2.5, head: 11 });
      }
      colour(context, palette.paper);
      dot(context, soft, 8);
      colour(context, ink);
      dot(context, soft, 6);
      const [dx, dy] = t.vector(negative(borrowed));
      const lies = dy > 0 || (dy === 0 && dx < 0) ? -18 : 18; // beside the arrow, not on it
      words(context, "y", soft[0], soft[1] + lies, palette, { ink });
      if (jump >= 1) {
        words(context, "z", corner[0] + [16, -16, 18][won], corner[1] + [-16, -16, 6][won], palette, { ink });
      }
      context.globalAlpha = 1;
    }

    function everyDraw(context, palette, alpha) {
      for (const { y, borrowed, won } of many.draws) {
        colour(context, palette.series[won]);
        context.globalAlpha = 0.55 * alpha;
        const at = t.point(y);
        dot(context, at, 1.8);
        arrow(context, at, t.vector(negative(borrowed), ARROW), { width: 1.2, head: 5 });
      }
      context.globalAlpha = alpha;
      const at = t.point(probs());
      for (const [vector, ink, width] of [[many.exact, palette.ink, 4], [many.mean, palette.series[3], 3]]) {
        colour(context, palette.paper);
        arrow(context, at, t.vector(negative(vector), 2 * ARROW), { width: width + 3, head: 15 });
        colour(context, ink);
        arrow(context, at, t.vector(negative(vector), 2 * ARROW), { width, head: 12 });
      }
      colour(context, palette.ink);
      dot(context, at, 4);
      context.globalAlpha = 1;
    }

    target = targetHandle(figure, () => t);
    const transition = ui.loop(host, (seconds) => {
      const by = seconds * 0.9;
      shown += Math.max(-3 * by, Math.min(by, step - shown));
      figure.redraw();
      return Math.abs(step - shown) > 1e-6;
    });
    function go(to) {
      step = to;
      if (ui.reducedMotion()) shown = step;
      else transition.start();
      figure.redraw();
      tell();
    }

    const choice = ui.choice(side, {
      label: "Step",
      options: STEPS.map((name, i) => [i, name]),
      value: step,
      oninput: go,
    });
    choice.element.classList.add("play-steps");
    const row = ui.controls(side);
    ui.button(row, {
      label: "Show the steps", main: true,
      onclick: () => {
        shown = 0;
        choice.set(3);
        go(3);
      },
    });
    ui.button(row, { label: "Next draw", onclick: () => change({ draw: (state.draw + 1) % NUM_POINTS }) });
    tauSlider(ui.controls(side));
    const said = ui.live(side);
    const box = ui.python(side);

    function update() {
      const g = laws.rowOf(noise(), 3 * state.draw, 3);
      const won = laws.winner(logits(), g, 0);
      const z = laws.oneHot(won, 3);
      one = { y: softOf(g), z, won, slope: loss.gradient(z), borrowed: borrowedBy(g) };
      const draws = [];
      const mean = [0, 0, 0];
      for (let i = 0; i < NUM_ARROWS; i++) {
        const row = laws.rowOf(noise(), 3 * i, 3);
        const borrowed = borrowedBy(row);
        draws.push({ y: softOf(row), borrowed, won: laws.winner(logits(), row, 0) });
        for (let k = 0; k < 3; k++) mean[k] += borrowed[k] / NUM_ARROWS;
      }
      many = { draws, mean, exact: laws.exactGradient(loss, logits()) };
      target.place();
      figure.redraw();
      tell();
    }

    function tell() {
      const name = CLASSES[one.won];
      said.say(
        [
          `Draw ${state.draw}: the soft point y = (${fixed(one.y)}).`,
          `Forward: the corner z of class ${name}, with the loss ${loss.value(one.z).toFixed(2)}.`,
          `The loss at z has the slope (${fixed(one.slope)}); the arrow points down.`,
          `Backward: passed through the softmax at y, the gradient is (${fixed(one.borrowed)}).`,
          `Mean of ${NUM_ARROWS} draws (${fixed(many.mean)}), the thinner arrow at p; exact gradient ` +
            `(${fixed(many.exact)}), the thick arrow.`,
        ][step]
      );
      figure.describe(
        `A triangle with contours of a loss around the target (${fixed(state.target)}). ` +
          `The soft point (${fixed(one.y)}) jumps to the corner ${name}. ` +
          `The slope there, (${fixed(one.slope)}), becomes the gradient (${fixed(one.borrowed)}) at the soft point.`
      );
      const key = `seed=${state.seed}`;
      const [rows, noise] = step < 4 ? [1, `${key}, rows=[${state.draw}]`] : [NUM_ARROWS, key];
      const own = ["print(z[0].tolist(), round(loss.item(), 3))", "print([round(v, 3) for v in x.grad[0].tolist()])"];
      const all = [
        "print([round(v, 3) for v in x.grad.mean(0).tolist()])",
        "p = logits.softmax(-1)",
        "costs = ((torch.eye(3) - target) ** 2).sum(-1)",
        "exact = p * (costs - p @ costs)",
        "print([round(v, 3) for v in exact.tolist()])",
      ];
      box.set(
        [
          "import torch",
          "import argumbel as ag",
          "",
          `logits = torch.tensor(${ui.pythonFloats(state.logits)})`,
          `x = logits.expand(${rows}, 3).clone().requires_grad_()`,
          `target = torch.tensor(${ui.pythonFloats(state.target)})`,
          `noise = ag.KeyedNoise(${noise})`,
          `z = ag.straight_through(x, tau=${pythonFloat(state.tau)}, noise=noise)`,
          "loss = ((z - target) ** 2).sum()",
          "loss.backward()",
          ...(step < 4 ? own : all),
        ].join("\n"),
        step < 4
          ? `${ui.pythonFloats(one.z)} ${pythonRound(loss.value(one.z), 3)}\n${rounded(one.borrowed, 3)}`
          : `${rounded(many.mean, 3)}\n${rounded(many.exact, 3)}`
      );
    }

    const catchUp = follow(host, update);
    return {
      shown() {
        catchUp();
        return { one, mean: many.mean, exact: many.exact };
      },
    };
  });
})(globalThis);
